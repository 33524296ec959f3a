"""unCLIP upsamplers (2204.06125, section 2.1): attention-free ADM, trained on crops and run at full size."""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.config import UpsamplerConfig
from models.inpainting import append_known
from models.unet import UNet


@final
class Upsampler(nn.Module):
    """U-Net over [x_t, resized low resolution image].  No caption, no attention, so any size the stride
    divides."""

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config.unet)
        self.last_unet = UNet(config.unet) if config.last_step_unet else None

    def forward(
        self,
        x_t: Float[Tensor, "B 3 H W"],
        t: Int[Tensor, " B"],
        low_res: Float[Tensor, "B 3 h w"],
        known: Float[Tensor, "B 4 H W"] | None = None,
    ) -> Float[Tensor, "B out H W"]:
        """Raw output of 3 channels, or 6 with a learned variance.  `low_res` is in [-1, 1], of any size whose
        shape is that of x_t divided by one number.  `known`: `Known.channels()`, for a network with
        `config.inpainting`; without it nothing is known.

        Raises `ValueError` when the shapes do not match or are not divisible by the stride.
        """
        height, width = x_t.shape[2:]
        low_height, low_width = low_res.shape[2:]
        if height * low_width != width * low_height:
            raise ValueError(
                f"Upsampler: {height}x{width} and the low resolution {low_height}x{low_width} differ in "
                f"shape; crop both alike"
            )
        resized = self.resize(low_res, (height, width))
        x = append_known(torch.cat([x_t, resized], dim=1), known, self.config.inpainting)
        output = self._unet_of(t)(x, t)
        return output + resized if self.config.residual else output

    def denoise(
        self,
        x_t: Float[Tensor, "B 3 H W"],
        t: Int[Tensor, " B"],
        *,
        low_res: Float[Tensor, "B 3 h w"],
        known: Float[Tensor, "B 4 H W"] | None = None,
    ) -> Float[Tensor, "B out H W"]:
        """`forward` with its conditions by name, as the samplers' partial wants them."""
        return self(x_t, t, low_res, known)

    def resize(self, low_res: Float[Tensor, "B 3 h w"], size: tuple[int, int]) -> Float[Tensor, "B 3 H W"]:
        """The low resolution image at the output's size, as the network sees it."""
        mode, _, antialias = self.config.interpolation.partition("_")
        return F.interpolate(low_res, size, mode=mode, align_corners=False, antialias=bool(antialias))

    def _unet_of(self, t: Int[Tensor, " B"]) -> UNet:
        if self.last_unet is None or not bool((t == 0).any()):
            return self.unet
        if not bool((t == 0).all()):
            raise ValueError(
                "Upsampler: with last_step_unet all samples are at step 0 or none; it is not trained"
            )
        return self.last_unet
