"""What recipes say about training steps.  Importing this costs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from models.config import ARPriorConfig, DecoderConfig, DiffusionConfig, PriorConfig, UpsamplerConfig
from models.config_text import TextFeaturesConfig
from pipelines.step import Resources, StepConfig, input_of
from pipelines.train.optimiser import OptimiserSettings
from pipelines.train.precision import DeviceChoice, PrecisionChoice


class TrainResources(Resources):
    """What changes no byte of the weights."""

    cpus_per_rank: float = Field(default=1.0, gt=0)
    prefetch: int = Field(default=1, ge=0)
    """Threads of each rank that decode ahead; 0: decode when needed."""
    cache_mb: int = Field(default=64, ge=0)
    """Decoded thumbnails that each rank keeps."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Updates between checkpoints; rounded up to a multiple of `log_every`."""
    max_lost: int = Field(default=2, ge=0)
    """How often lost ranks are started again."""


class TrainConfig(StepConfig):
    """What all stages have in common."""

    corpus: str = input_of("corpus")
    embeddings: str = input_of("embeddings", "annotation")
    verdict: str = input_of("verdict")
    initial: str | None = input_of("prior", "decoder", "upsampler", optional=True)
    """A trained stage to go on from, with its averaged weights and new moments; its network may only lack
    `inpainting`, which is then added (`models.inpainting.widened_state`)."""
    steps: int = Field(ge=1)
    """Updates of the weights."""
    batch: int = Field(ge=1)
    """Samples of one update, over all ranks."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Samples that a rank handles at a time; None: its whole share of the batch."""
    optimiser: OptimiserSettings
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    ranks: int = Field(default=2, ge=1)
    zero_stage: Literal[0, 1, 2, 3] | None = 2
    """Of DeepSpeed; None: plain torch."""
    device: DeviceChoice = "auto"
    precision: PrecisionChoice = "auto"
    threads: int = Field(default=1, ge=1)
    """CPU threads of a rank's kernels.  Not a resource: another number sums in another order."""
    log_every: int = Field(default=10, ge=1)
    validate_every: int = Field(default=100, ge=0)
    """Updates between looks at the validation split; 0: never."""
    validation_samples: int = Field(default=64, ge=2)

    @model_validator(mode="after")
    def _batch_divides(self) -> TrainConfig:
        if self.batch % self.ranks:
            raise ValueError(
                f"batch {self.batch} must be divisible by ranks {self.ranks}: each rank takes an equal share"
            )
        if (self.batch // self.ranks) % (self.micro_batch or 1):
            raise ValueError(
                f"a rank's share of {self.batch // self.ranks} samples must be divisible by "
                f"micro_batch {self.micro_batch}"
            )
        return self


class TrainDiffusionConfig(TrainConfig):
    """What stages that learn a diffusion have in common."""

    diffusion: DiffusionConfig
    timesteps: Literal["uniform", "loss_aware"] = "uniform"
    """How training draws them; `loss_aware`: 2102.09672, section 3.3."""


class TrainPriorConfig(TrainDiffusionConfig):
    """Diffusion prior (2204.06125, section 2.2)."""

    network: PriorConfig
    diffusion: DiffusionConfig = DiffusionConfig(schedule="cosine", prediction="x0", variance="fixed_small")
    drop_text: float = Field(default=0.1, ge=0, lt=1)
    analytic_steps: tuple[int | str, ...] = (64,)
    """Respacings, as `steps` of the sampling settings, for which analytic variance (Analytic-DPM) is
    estimated after training."""
    analytic_samples: int = Field(default=256, ge=1)
    """Training samples that it is estimated from, at a call of the network each and step."""

    @model_validator(mode="after")
    def _supported(self) -> TrainPriorConfig:
        if self.network.vocab_size is None:
            raise ValueError("network.vocab_size: the prior is trained on token ids, give its vocabulary")
        if self.network.normalisation != "unit_norm":
            raise ValueError("network.normalisation: the prior is trained on unit-norm embeddings")
        if self.diffusion.variance == "learned_range":
            raise ValueError("diffusion.variance: the prior has no variance output, choose fixed_small")
        return self


class TrainARPriorConfig(TrainConfig):
    """Autoregressive prior (2204.06125, section 2.2)."""

    network: ARPriorConfig
    drop_text: float = Field(default=0.1, ge=0, lt=1)
    least_variance: float = Field(default=0.99, ge=0, le=1)
    """Share of the embeddings' variance that `network.components` must hold."""
    codec_samples: int = Field(default=1_000_000, ge=2)
    """Training embeddings, drawn by the seed, that the codec is fitted to; all where there are fewer."""


class TrainDecoderConfig(TrainDiffusionConfig):
    """Decoder (2204.06125, section 2.1)."""

    network: DecoderConfig
    diffusion: DiffusionConfig = DiffusionConfig(
        schedule="cosine", prediction="epsilon", variance="learned_range"
    )
    drop_image: float = Field(default=0.1, ge=0, lt=1)
    drop_text: float = Field(default=0.5, ge=0, lt=1)

    @model_validator(mode="after")
    def _supported(self) -> TrainDecoderConfig:
        if self.network.vocab_size is None:
            raise ValueError("network.vocab_size: the decoder is trained on token ids, give its vocabulary")
        if self.diffusion.variance != "learned_range":
            raise ValueError("diffusion.variance: the decoder learns its variance, choose learned_range")
        return self


class TrainUpsamplerConfig(TrainDiffusionConfig):
    """Upsampler (2204.06125, section 2.1), trained on crops."""

    network: UpsamplerConfig
    diffusion: DiffusionConfig
    """unCLIP: epsilon, cosine for 64 to 256, linear for 256 to 1024."""
    degradation: Literal["none", "blur", "bsr"]
    """unCLIP: blur for the first upsampler, bsr for the second."""
    crop_fraction: float = Field(default=0.25, gt=0, le=1)
    """Side of the crops as a share of the target's side."""
    drop_text: float = Field(default=0.1, ge=0, lt=1)
    """Of networks that read the caption, for classifier-free guidance."""

    @property
    def crop(self) -> int:
        """Side of the training crops, px."""
        return round(self.network.image_size * self.crop_fraction)

    @model_validator(mode="after")
    def _supported(self) -> TrainUpsamplerConfig:
        if self.network.last_step_unet:
            raise ValueError(
                "network.last_step_unet: a second U-Net is for imported weights, not for training"
            )
        learned = self.diffusion.variance == "learned_range"
        if learned != self.network.learned_variance:
            raise ValueError(
                f"network.learned_variance is {self.network.learned_variance}, but diffusion.variance is "
                f"{self.diffusion.variance!r}: both must learn the variance, or neither"
            )
        if self.network.residual and self.diffusion.prediction != "x0":
            raise ValueError(
                f"network.residual adds the input image to the output: diffusion.prediction must be 'x0', "
                f"got {self.diffusion.prediction!r}"
            )
        if isinstance(self.network.text, TextFeaturesConfig):
            raise ValueError("network.text: upsamplers are trained on token ids, give a text transformer")
        for what, divisor in (("stride", self.network.unet.stride), ("scale", self.network.scale)):
            if self.crop % divisor:
                raise ValueError(
                    f"crops of {self.crop} px must be divisible by the network's {what}, {divisor}"
                )
        return self
