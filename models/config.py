"""Configurations of the networks, the processes and the sampling: frozen, JSON-safe, checked when made.

Importing this file costs no torch: recipes are validated before anything heavy is loaded.  `config.build()`
makes the object, on the current default device (`with torch.device("meta"):` counts parameters without
memory). Weights travel as safetensors with `config.to_dict()` beside them; `from_dict` is its inverse.

Small configurations for a demo on two CPU cores without AMX.  Rates are samples a second on *one* core in
float32 (two gave 1.8 times as much, `channels_last` nothing): training at the batch given, and one forward at
full size.

    prior, d = 256     width 192, 4 layers, 6 heads, context 32,         2.8 M    189 (64)    576
                       4,096 tokens
    decoder, 64 px     32 channels x (1, 2, 3), 1 block, attention at    3.5 M     27 (16)     80
                       16 and 8 px in heads of 32, patch 2, 2 text
                       layers of width 128, 4,096 tokens
    64 -> 256 px       32 channels x (1, 2, 4), 1 block, patch 4,        2.9 M     98 (16)     16
                       residual, bicubic, crops of 64 px
    256 -> 512 px      the same                                          2.9 M     98 (16)    4.1

Patch 4 is what makes the upsamplers cheap.  Patch 2 trains at 31 and runs at 5.3 and 1.4, an unpatched
network trains at 7.5.  Single runs of 60 and 45 s on emoji ended 9.5 and 3.0 dB of PSNR above bicubic with
patch 4, 8.5 and 1.0 dB with patch 2.
"""

import dataclasses
import typing
from typing import TYPE_CHECKING, Any, Literal

from models.config_base import Config, check_divides, check_fraction, check_positive
from models.config_priors import ARPriorConfig, PriorConfig
from models.config_text import TextFeaturesConfig, TextTransformerConfig
from models.config_unet import UNetConfig

if TYPE_CHECKING:
    # Modules, not names: the forward references below are absolute, which the run-time shape checks resolve.
    import torch.nn

    import models.cascade
    import models.clip_heads
    import models.decoder
    import models.diffusion.process
    import models.noised_clip
    import models.upsampler


KNOWN_CHANNELS = 4
"""What an inpainting network also sees (GLIDE, 2112.10741): three of known pixels, one of the mask."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionConfig(Config):
    """A diffusion process: schedule, what is predicted, which variance."""

    schedule: Literal["cosine", "linear"] = "cosine"
    steps: int = 1000
    prediction: Literal["epsilon", "x0", "v"] = "epsilon"
    variance: Literal["learned_range", "fixed_small", "fixed_large"] = "learned_range"
    clip_range: float = 1.0
    """Samplers that clamp x0 clamp it to plus and minus this.  Pixels: 1; Karlo's prior: 10."""

    def __post_init__(self) -> None:
        check_positive(self, "steps")
        if self.clip_range <= 0:
            raise ValueError(f"DiffusionConfig.clip_range: expected a positive number, got {self.clip_range}")

    def build(self) -> "models.diffusion.process.Diffusion":
        from models.diffusion.process import Diffusion
        from models.diffusion.schedule import cosine_betas, linear_betas

        betas = cosine_betas(self.steps) if self.schedule == "cosine" else linear_betas(self.steps)
        return Diffusion(
            betas, prediction=self.prediction, variance=self.variance, clip_range=self.clip_range
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig(Config):
    """unCLIP decoder (2204.06125, section 2.1): a GLIDE U-Net that also sees the image embedding."""

    embedding_dim: int | None
    """Width of the image embedding; None: there is none, the decoder draws from text alone (GLIDE)."""
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int | tuple[int, ...]
    attention_resolutions: tuple[int, ...]
    text_context: int
    text_width: int
    vocab_size: int | None = None
    """Token ids come in and are encoded here.  Exactly one of this and `text_features_dim` is given."""
    text_layers: int | None = None
    text_heads: int | None = None
    """Of the text transformer; both None where features come in."""
    text_features_dim: int | None = None
    """Features of an outer text encoder come in instead, of this width."""
    text_pooled_dim: int | None = None
    """Width of the outer encoder's vector for the whole text, where there is one beside the features."""
    null_text: Literal["learned", "given"] = "learned"
    """Of the features; see `TextFeaturesConfig.null`."""
    embedding_scale: float | None = None
    """What image embeddings are multiplied by before their projections; None: sqrt(embedding_dim), which
    brings unit-norm ones to unit variance.  Karlo: 1, its embeddings are not normalised."""
    image_size: int = 64
    num_head_channels: int = 64
    image_tokens: int = 4
    dropout: float = 0.0
    norm_groups: int = 32
    patch_size: int = 1
    inpainting: bool = False
    """Four more input channels: the known pixels and where they are (`models.inpainting`)."""

    def __post_init__(self) -> None:
        check_positive(self, "image_tokens")
        if self.embedding_dim is not None:
            check_positive(self, "embedding_dim")
        self._check_text()
        # The parts check the rest, and name themselves when something is wrong.
        _ = self.unet, self.text

    @property
    def unet(self) -> UNetConfig:
        return UNetConfig(
            image_size=self.image_size,
            model_channels=self.model_channels,
            channel_mult=self.channel_mult,
            num_res_blocks=self.num_res_blocks,
            in_channels=3 + (KNOWN_CHANNELS if self.inpainting else 0),
            attention_resolutions=self.attention_resolutions,
            num_head_channels=self.num_head_channels,
            encoder_channels=self.text_width,
            dropout=self.dropout,
            norm_groups=self.norm_groups,
            patch_size=self.patch_size,
        )

    @property
    def text(self) -> TextTransformerConfig | TextFeaturesConfig:
        if self.text_features_dim is not None:
            return TextFeaturesConfig(
                features_dim=self.text_features_dim,
                context=self.text_context,
                width=self.text_width,
                time_width=4 * self.model_channels,
                pooled_dim=self.text_pooled_dim,
                null=self.null_text,
            )
        assert self.vocab_size is not None and self.text_layers is not None and self.text_heads is not None
        return TextTransformerConfig(
            vocab_size=self.vocab_size,
            context=self.text_context,
            width=self.text_width,
            layers=self.text_layers,
            heads=self.text_heads,
        )

    def _check_text(self) -> None:
        if (self.vocab_size is None) == (self.text_features_dim is None):
            raise ValueError(
                f"DecoderConfig: give exactly one of vocab_size (token ids come in) and text_features_dim "
                f"(features come in), got {self.vocab_size} and {self.text_features_dim}"
            )
        of_tokens, of_features = ["text_layers", "text_heads"], ["text_pooled_dim"]
        if self.text_features_dim is None:
            check_positive(self, *of_tokens)
        kind, foreign = ("token ids", of_features) if self.vocab_size is not None else ("features", of_tokens)
        if given := [name for name in foreign if getattr(self, name) is not None]:
            raise ValueError(f"DecoderConfig: {', '.join(given)} must be null where {kind} come in")

    def build(self) -> "models.decoder.Decoder":
        from models.decoder import Decoder

        return Decoder(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class UpsamplerConfig(Config):
    """unCLIP upsampler (2204.06125, section 2.1): ADM without any attention, conditioned by concatenation.

    GLIDE's and Imagen's also read the text: `text` and where it is attended to.
    """

    image_size: int
    low_res_size: int
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int | tuple[int, ...]
    dropout: float = 0.0
    learned_variance: bool = True
    use_scale_shift_norm: bool = True
    """ADM: true; Karlo: false."""
    last_step_unet: bool = False
    """A second U-Net of the same shape makes the last step, t = 0 (Karlo).  Not for training."""
    interpolation: Literal["bilinear", "bicubic", "bicubic_antialias"] = "bilinear"
    """How the low resolution input is resized; ADM: bilinear.  Karlo: torch's antialiased bicubic, another
    kernel even where nothing is made smaller (a = -0.5, not -0.75)."""
    residual: bool = False
    """Add the resized input to the output, so that an untrained network already returns it.  Only for
    networks that predict x0; not in the paper, whose networks train for a million steps instead."""
    norm_groups: int = 32
    patch_size: int = 1
    inpainting: bool = False
    """Four more input channels: the known pixels at `image_size` and where they are."""
    text: TextTransformerConfig | TextFeaturesConfig | None = None
    attention_resolutions: tuple[int, ...] = ()
    """As in `UNetConfig`; unCLIP: none, which lets a network trained on crops run at any size."""
    middle_attention: bool = False
    self_attention: bool = True
    num_head_channels: int = 64
    efficient: bool = False
    """Efficient U-Net (Imagen, 2205.11487, appendix B): its order of sides and blocks, scaled skip
    connections, plain convolutions that change the side.  Usually with `num_res_blocks` by level."""
    noise_conditioning: bool = False
    """The low resolution input is noised to a level that the network is told (Imagen, section 2.4)."""

    def __post_init__(self) -> None:
        check_positive(self, "image_size", "low_res_size")
        check_divides(self, "image_size", self.image_size, "low_res_size", self.low_res_size)
        if self.residual and self.learned_variance:
            raise ValueError(
                "UpsamplerConfig.residual: x0 prediction has a fixed variance; set learned_variance to false"
            )
        if isinstance(self.text, TextFeaturesConfig):
            self._check_features(self.text)
        _ = self.unet

    def _check_features(self, text: TextFeaturesConfig) -> None:
        width = 4 * self.model_channels
        if text.time_width != width:
            raise ValueError(
                f"UpsamplerConfig.text.time_width: expected 4 * model_channels = {width}, got "
                f"{text.time_width}"
            )
        if text.pooled_dim is not None:
            raise ValueError(
                f"UpsamplerConfig.text.pooled_dim: upsamplers are given features alone, it must be null, got "
                f"{text.pooled_dim}"
            )

    @property
    def scale(self) -> int:
        return self.image_size // self.low_res_size

    @property
    def unet(self) -> UNetConfig:
        return UNetConfig(
            image_size=self.image_size,
            model_channels=self.model_channels,
            channel_mult=self.channel_mult,
            num_res_blocks=self.num_res_blocks,
            in_channels=6 + (KNOWN_CHANNELS if self.inpainting else 0),
            out_channels=6 if self.learned_variance else 3,
            attention_resolutions=self.attention_resolutions,
            num_head_channels=self.num_head_channels,
            middle_attention=self.middle_attention,
            encoder_channels=None if self.text is None else self.text.width,
            self_attention=self.self_attention,
            use_scale_shift_norm=self.use_scale_shift_norm,
            dropout=self.dropout,
            resblock_updown=not self.efficient,
            norm_groups=self.norm_groups,
            patch_size=self.patch_size,
            efficient_order=self.efficient,
            skip_scale=2**-0.5 if self.efficient else 1.0,
        )

    def build(self) -> "models.upsampler.Upsampler":
        from models.upsampler import Upsampler

        return Upsampler(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClipHeadsConfig(Config):
    """Heads over two frozen towers (locked-image tuning, 2111.07991)."""

    image_dim: int
    text_dim: int
    dim: int
    hidden: int | None = None
    """Width of one hidden layer; None: a linear head."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "image_dim", "text_dim", "dim")
        if self.hidden is not None:
            check_positive(self, "hidden")
        check_fraction(self, "dropout")

    def build(self) -> "models.clip_heads.ClipHeads":
        from models.clip_heads import ClipHeads

        return ClipHeads(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NoisedClipConfig(Config):
    """CLIP's image encoder on noised images (GLIDE, 2112.10741, section 2.4)."""

    embedding_dim: int
    """Of the frozen text and image embeddings that it learns to match."""
    width: int
    layers: int
    heads: int
    image_size: int = 64
    patch_size: int = 4

    def __post_init__(self) -> None:
        check_positive(self, "embedding_dim", "width", "layers", "heads", "image_size", "patch_size")
        check_divides(self, "width", self.width, "heads", self.heads)
        check_divides(self, "width", self.width, "2 (sine and cosine)", 2)
        check_divides(self, "image_size", self.image_size, "patch_size", self.patch_size)

    def build(self) -> "models.noised_clip.NoisedClip":
        from models.noised_clip import NoisedClip

        return NoisedClip(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class UnCLIPConfig(Config):
    """The whole cascade: every network with its process."""

    prior: PriorConfig | ARPriorConfig | None
    """None: the decoder draws from text alone (GLIDE, Imagen)."""
    prior_diffusion: DiffusionConfig | None
    """Of a diffusion prior alone."""
    decoder: DecoderConfig
    decoder_diffusion: DiffusionConfig
    upsamplers: tuple[UpsamplerConfig, ...] = ()
    upsampler_diffusions: tuple[DiffusionConfig, ...] = ()
    prior_noise_powers: tuple[str, ...] = ()
    """Respacings, as `spaced_steps` takes them, at which the prior can be sampled with analytic variance."""

    def __post_init__(self) -> None:
        self._check_prior()
        if len(self.upsamplers) != len(self.upsampler_diffusions):
            raise ValueError(
                f"UnCLIPConfig: {len(self.upsamplers)} upsamplers, but {len(self.upsampler_diffusions)} "
                f"processes for them"
            )
        size = self.decoder.image_size
        for i, upsampler in enumerate(self.upsamplers):
            if upsampler.low_res_size != size:
                raise ValueError(
                    f"UnCLIPConfig.upsamplers[{i}]: expects {upsampler.low_res_size} px, the stage before it "
                    f"makes {size} px"
                )
            size = upsampler.image_size
            if upsampler.text is not None and _source(upsampler.text) != _source(self.decoder.text):
                raise ValueError(
                    f"UnCLIPConfig.upsamplers[{i}]: all stages see one text, but the decoder takes "
                    f"{_source(self.decoder.text)}, this one {_source(upsampler.text)}"
                )

    def _check_prior(self) -> None:
        if isinstance(self.prior, PriorConfig) != (self.prior_diffusion is not None):
            raise ValueError(
                "UnCLIPConfig.prior_diffusion: a diffusion prior needs a process, and nothing else has one"
            )
        if self.prior_noise_powers and self.prior_diffusion is None:
            raise ValueError("UnCLIPConfig.prior_noise_powers: there is no diffusion prior to have any")
        made = None if self.prior is None else self.prior.embedding_dim
        if made != self.decoder.embedding_dim:
            raise ValueError(
                f"UnCLIPConfig: the prior makes embeddings of {made or 'no'} dimensions, the decoder expects "
                f"{self.decoder.embedding_dim or 'none'}"
            )
        if self.prior is not None and self.prior.text_features_dim != self.decoder.text_features_dim:
            raise ValueError(
                f"UnCLIPConfig: prior and decoder see one text, but text_features_dim is "
                f"{self.prior.text_features_dim} of the prior and {self.decoder.text_features_dim} of the "
                f"decoder (null: token ids)"
            )
        if self.prior is not None and self.prior.vocab_size != self.decoder.vocab_size:
            raise ValueError(
                f"UnCLIPConfig: prior and decoder see the same token ids, but vocab_size is "
                f"{self.prior.vocab_size} of the prior and {self.decoder.vocab_size} of the decoder"
            )

    def build(self) -> "models.cascade.UnCLIP":
        from models.cascade import UnCLIP

        return UnCLIP(self)


def _source(text: TextTransformerConfig | TextFeaturesConfig) -> str:
    if isinstance(text, TextTransformerConfig):
        return f"token ids of a vocabulary of {text.vocab_size}"
    return f"features of width {text.features_dim}"


NetworkConfig = (
    UNetConfig
    | PriorConfig
    | ARPriorConfig
    | DecoderConfig
    | UpsamplerConfig
    | ClipHeadsConfig
    | NoisedClipConfig
    | UnCLIPConfig
)
_NETWORKS: dict[str, type[NetworkConfig]] = {c.__name__: c for c in typing.get_args(NetworkConfig)}


def tagged(config: NetworkConfig) -> dict[str, Any]:
    """`to_dict` with the class beside it, for a file from which the right network must be rebuilt."""
    return {"config": type(config).__name__, **config.to_dict()}


def from_tagged(values: dict[str, Any]) -> NetworkConfig:
    """Inverse of `tagged`."""
    values = dict(values)
    name = values.pop("config", None)
    if name not in _NETWORKS:
        raise ValueError(
            f"network configuration: expected 'config' to be one of {sorted(_NETWORKS)}, got {name!r}"
        )
    return _NETWORKS[name].from_dict(values)


def parameter_count(network: "torch.nn.Module") -> int:
    return sum(p.numel() for p in network.parameters())
