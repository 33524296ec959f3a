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
from models.config_text import TextFeaturesConfig, TextTransformerConfig

if TYPE_CHECKING:
    # Modules, not names: the forward references below are absolute, which the run-time shape checks resolve.
    import torch.nn

    import models.cascade
    import models.clip_heads
    import models.decoder
    import models.diffusion.process
    import models.prior
    import models.unet
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
    """Samplers that clamp x0 clamp it to plus and minus this.  Pixels: 1; Karlo's prior: 5."""

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
class UNetConfig(Config):
    """ADM U-Net (Dhariwal & Nichol, 2105.05233).  Names as in Table 3 of unCLIP where it has one."""

    image_size: int
    """Side in pixels at which `attention_resolutions` hold; the network runs at any size its strides
    divide."""
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    in_channels: int = 3
    out_channels: int = 6
    attention_resolutions: tuple[int, ...] = ()
    """Feature map sides in pixels, as the paper writes them (OpenAI's classes take downsampling factors)."""
    num_head_channels: int = 64
    middle_attention: bool = True
    encoder_channels: int | None = None
    """Width of a text sequence that every attention block also attends to; None: no such input."""
    dropout: float = 0.0
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    norm_groups: int = 32
    """Groups of every GroupNorm.  ADM: 32; fewer allow fewer channels."""
    patch_size: int = 1
    """Side of the pixel blocks folded into channels at the input and unfolded at the output (2301.11093,
    section 2.3).  ADM: 1; 2 quarters the cost of the first level, where a CPU spends most of an upsampler's
    time."""

    def __post_init__(self) -> None:
        check_positive(
            self,
            *("image_size", "model_channels", "num_res_blocks", "in_channels", "out_channels"),
            *("num_head_channels", "norm_groups", "patch_size"),
        )
        check_fraction(self, "dropout")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"UNetConfig.channel_mult: expected positive integers, got {self.channel_mult}")
        check_divides(self, "image_size", self.image_size, "stride", self.stride)
        for mult in self.channel_mult:
            check_divides(
                self,
                "model_channels * channel_mult",
                self.model_channels * mult,
                "norm_groups",
                self.norm_groups,
            )
        sides = self.level_sides
        if unknown := sorted(set(self.attention_resolutions) - set(sides)):
            raise ValueError(
                f"UNetConfig.attention_resolutions: {unknown} are not among the feature map sides "
                f"{list(sides)} of image_size {self.image_size}"
            )
        for side, mult in zip(sides, self.channel_mult, strict=True):
            last = side == sides[-1]
            if side in self.attention_resolutions or (last and self.middle_attention):
                channels = self.model_channels * mult
                check_divides(
                    self, f"channels at {side} px", channels, "num_head_channels", self.num_head_channels
                )

    @property
    def stride(self) -> int:
        """What the sides of an input must be divisible by."""
        return int(self.patch_size * 2 ** (len(self.channel_mult) - 1))

    @property
    def level_sides(self) -> tuple[int, ...]:
        return tuple(
            self.image_size // self.patch_size // 2**level for level in range(len(self.channel_mult))
        )

    def build(self) -> "models.unet.UNet":
        from models.unet import UNet

        return UNet(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PriorConfig(Config):
    """Diffusion prior (2204.06125, section 2.2)."""

    embedding_dim: int
    context: int
    width: int
    layers: int
    heads: int
    vocab_size: int | None = None
    """Token ids come in and are embedded here.  Exactly one of this and `text_features_dim` is given."""
    text_features_dim: int | None = None
    """Features of an outer text encoder come in instead, of this width."""
    null_text: Literal["learned", "given"] = "learned"
    """What stands for a dropped text; given: the encoding of the empty prompt (Karlo), for features alone."""
    normalisation: Literal["unit_norm", "standardised"] = "unit_norm"
    """How embeddings are brought to where the diffusion lives.  unit_norm: as in the paper, of norm 1 and
    scaled.  standardised: as the encoder gives them, each dimension by a mean and a deviation that are kept
    with the weights (Karlo)."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "embedding_dim", "context", "width", "layers", "heads")
        check_divides(self, "width", self.width, "heads", self.heads)
        check_divides(self, "width", self.width, "2 (sine and cosine)", 2)
        check_fraction(self, "dropout")
        if (self.vocab_size is None) == (self.text_features_dim is None):
            raise ValueError(
                f"PriorConfig: give exactly one of vocab_size (token ids come in) and text_features_dim "
                f"(features come in), got {self.vocab_size} and {self.text_features_dim}"
            )
        check_positive(self, "vocab_size" if self.text_features_dim is None else "text_features_dim")
        if self.null_text == "given" and self.text_features_dim is None:
            raise ValueError("PriorConfig.null_text: 'given' is for features; with token ids it is learned")

    def build(self) -> "models.prior.DiffusionPrior":
        from models.prior import DiffusionPrior

        return DiffusionPrior(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig(Config):
    """unCLIP decoder (2204.06125, section 2.1): a GLIDE U-Net that also sees the image embedding."""

    embedding_dim: int | None
    """Width of the image embedding; None: there is none, the decoder draws from text alone (GLIDE)."""
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
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
    """unCLIP upsampler (2204.06125, section 2.1): ADM without any attention, conditioned by concatenation."""

    image_size: int
    low_res_size: int
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
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

    def __post_init__(self) -> None:
        check_positive(self, "image_size", "low_res_size")
        check_divides(self, "image_size", self.image_size, "low_res_size", self.low_res_size)
        if self.residual and self.learned_variance:
            raise ValueError(
                "UpsamplerConfig.residual: x0 prediction has a fixed variance; set learned_variance to false"
            )
        _ = self.unet

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
            middle_attention=False,
            use_scale_shift_norm=self.use_scale_shift_norm,
            dropout=self.dropout,
            norm_groups=self.norm_groups,
            patch_size=self.patch_size,
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
class UnCLIPConfig(Config):
    """The whole cascade: every network with its process."""

    prior: PriorConfig
    prior_diffusion: DiffusionConfig
    decoder: DecoderConfig
    decoder_diffusion: DiffusionConfig
    upsamplers: tuple[UpsamplerConfig, ...] = ()
    upsampler_diffusions: tuple[DiffusionConfig, ...] = ()

    def __post_init__(self) -> None:
        if self.prior.embedding_dim != self.decoder.embedding_dim:
            raise ValueError(
                f"UnCLIPConfig: the prior makes embeddings of {self.prior.embedding_dim} dimensions, the "
                f"decoder expects {self.decoder.embedding_dim}"
            )
        texts = self.prior.text_features_dim, self.decoder.text_features_dim
        if texts[0] != texts[1]:
            raise ValueError(
                f"UnCLIPConfig: prior and decoder see one text, but text_features_dim is {texts[0]} of the "
                f"prior and {texts[1]} of the decoder (null: token ids)"
            )
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

    def build(self) -> "models.cascade.UnCLIP":
        from models.cascade import UnCLIP

        return UnCLIP(self)


NetworkConfig = UNetConfig | PriorConfig | DecoderConfig | UpsamplerConfig | ClipHeadsConfig | UnCLIPConfig
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
