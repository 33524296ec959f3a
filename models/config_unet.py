"""Configuration of the U-Net."""

import dataclasses
from typing import TYPE_CHECKING

from models.config_base import Config, check_divides, check_fraction, check_positive

if TYPE_CHECKING:
    # A module, not names: see `models.config`.
    import models.unet


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class UNetConfig(Config):
    """ADM U-Net (Dhariwal & Nichol, 2105.05233).  Names as in Table 3 of unCLIP where it has one."""

    image_size: int
    """Side in pixels at which `attention_resolutions` hold; the network runs at any size its strides
    divide."""
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int | tuple[int, ...]
    """Of every level, or of each; one more on the way up."""
    in_channels: int = 3
    out_channels: int = 6
    attention_resolutions: tuple[int, ...] = ()
    """Feature map sides in pixels, as the paper writes them (OpenAI's classes take downsampling factors)."""
    num_head_channels: int = 64
    middle_attention: bool = True
    encoder_channels: int | None = None
    """Width of a text sequence that every attention block also attends to; None: no such input."""
    self_attention: bool = True
    """False: attention blocks attend to the text alone (Imagen's second super-resolution network)."""
    dropout: float = 0.0
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    norm_groups: int = 32
    """Groups of every GroupNorm.  ADM: 32; fewer allow fewer channels."""
    patch_size: int = 1
    """Side of the pixel blocks folded into channels at the input and unfolded at the output (2301.11093,
    section 2.3).  ADM: 1; 2 quarters the cost of the first level, where a CPU spends most of an upsampler's
    time."""
    efficient_order: bool = False
    """Efficient U-Net's order (Imagen, 2205.11487, appendix B): a level halves the side before its blocks and
    doubles it after them, so that even the first level's run at half the side.  ADM: False."""
    skip_scale: float = 1.0
    """What skip connections are multiplied by.  ADM: 1; Efficient U-Net: 1 / sqrt(2)."""

    def __post_init__(self) -> None:
        check_positive(
            self,
            *("image_size", "model_channels", "in_channels", "out_channels"),
            *("num_head_channels", "norm_groups", "patch_size"),
        )
        check_fraction(self, "dropout")
        if self.encoder_channels is None and not self.self_attention:
            raise ValueError("UNetConfig.self_attention: without a text there is nothing else to attend to")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"UNetConfig.channel_mult: expected positive integers, got {self.channel_mult}")
        if isinstance(self.num_res_blocks, int):
            check_positive(self, "num_res_blocks")
        elif len(self.num_res_blocks) != len(self.channel_mult) or min(self.num_res_blocks) < 1:
            raise ValueError(
                f"UNetConfig.num_res_blocks: expected a positive integer for each of the "
                f"{len(self.channel_mult)} levels, got {self.num_res_blocks}"
            )
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
        return int(self.patch_size * 2 ** (len(self.channel_mult) - 1 + self.efficient_order))

    @property
    def level_sides(self) -> tuple[int, ...]:
        first = self.image_size // self.patch_size // 2**self.efficient_order
        return tuple(first // 2**level for level in range(len(self.channel_mult)))

    @property
    def level_blocks(self) -> tuple[int, ...]:
        """Residual blocks of each level, on the way down."""
        n = self.num_res_blocks
        return (n,) * len(self.channel_mult) if isinstance(n, int) else n

    def build(self) -> "models.unet.UNet":
        from models.unet import UNet

        return UNet(self)
