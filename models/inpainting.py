"""Inpainting as GLIDE does it (2112.10741): what is known of a picture, and networks that are shown it.

A network with `inpainting` in its configuration has four more input channels, the known pixels and the mask.
It is made of a trained one by `widened`, whose new weights are zero, and fine-tuned on pictures of which
`draw_mask` erases a part.  n samples, h w sides.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.config import KNOWN_CHANNELS
from models.diffusion.process import Diffusion

STEM = "unet.input_blocks.0.0.weight"
"""How the weights end that the number of input channels changes, one of each U-Net."""

NOTHING_KNOWN = 0.1
MOST_RECTANGLES = 3
SMALLEST_SIDE = 0.25

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """Pictures of which a part is known."""

    pixels_m11: Float[Tensor, "n 3 h w"]
    """In [-1, 1]; what stands where nothing is known is never looked at."""
    mask: Bool[Tensor, "n 1 h w"]
    """True where known."""

    def channels(self) -> Float[Tensor, "n 4 h w"]:
        """What a network is shown: known pixels, 0 elsewhere, and the mask."""
        mask = self.mask.to(self.pixels_m11.dtype)
        return torch.cat([self.pixels_m11.masked_fill(~self.mask, 0), mask], dim=1)

    def at(self, size: tuple[int, int]) -> "Known":
        """At a smaller size.  A pixel is known there where all it covers is."""
        pixels = self.pixels_m11.masked_fill(~self.mask, 0)
        share = F.interpolate(self.mask.to(pixels.dtype), size, mode="area")
        return Known(pixels_m11=F.interpolate(pixels, size, mode="area"), mask=share == 1)

    def paste(self, onto: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """`onto` with the known pixels, bit for bit."""
        return torch.where(self.mask, self.pixels_m11, onto)


@final
class KnownRegion:
    """A denoiser that says the known pixels where they are known, whatever its network says there.

    The samplers then draw x_t in that region from q(x_t | x_0) with the true x_0: the network sees the known
    pixels noised as far as the rest, step by step ("replacement").  With an inpainting network this only
    keeps the chain true; with an ordinary one it is all there is, and its limit: at a high noise level hardly
    anything of the known region can be seen, so what is painted early need not fit it.  RePaint (2201.09865)
    goes up and down the chain several times against that; here the remedy is to fine-tune.
    """

    def __init__(self, denoise: Callable[..., Tensor], diffusion: Diffusion, known: Known) -> None:
        """`diffusion`: the process the network was trained with, not respaced: timesteps come as its own."""
        self.denoise, self.diffusion, self.known = denoise, diffusion, known

    def __call__(
        self, x_t: Float[Tensor, "n channels h w"], t: Int[Tensor, " n"], /
    ) -> Float[Tensor, "n out_channels h w"]:
        output, channels = self.denoise(x_t, t), x_t.shape[1]
        told = self.diffusion.output_for(self.known.pixels_m11, x_t, t)
        mean = torch.where(self.known.mask, told, output[:, :channels].to(told.dtype))
        return torch.cat([mean, output[:, channels:].to(told.dtype)], dim=1)


def append_known(
    x: Float[Tensor, "n channels h w"], known: Float[Tensor, "n 4 h w"] | None, inpainting: bool
) -> Float[Tensor, "n more_channels h w"]:
    """`x` with the channels an inpainting network expects; zeros where nothing is known.

    Raises `ValueError` where a network that was not widened is given known pixels.
    """
    if not inpainting:
        if known is not None:
            raise ValueError(
                "this network takes no known pixels: widen it with models.inpainting.widened and fine-tune "
                "it, or inpaint by replacement (KnownRegion)"
            )
        return x
    n, _, height, width = x.shape
    return torch.cat([x, x.new_zeros(n, KNOWN_CHANNELS, height, width) if known is None else known], dim=1)


def widened(network: NetworkT) -> NetworkT:
    """A copy of a decoder or an upsampler with `inpainting`: the same function, whatever is known."""
    config: Any = network.config
    if config.inpainting:
        raise ValueError(f"widened: this {type(network).__name__} is an inpainting network already")
    wide = dataclasses.replace(config, inpainting=True).build()
    wide.load_state_dict(widened_state(network.state_dict(), config.patch_size))
    return wide.to(next(network.parameters()).device).train(network.training)


def widened_state(state: Mapping[str, Tensor], patch_size: int) -> dict[str, Tensor]:
    """The weights of a network made those of one with `inpainting`: new inputs weigh nothing at first."""

    def wider(stem: Tensor) -> Tensor:
        new = stem.new_zeros(stem.shape[0], KNOWN_CHANNELS * patch_size**2, *stem.shape[2:])
        return torch.cat([stem, new], dim=1)

    return {name: wider(value) if name.endswith(STEM) else value for name, value in state.items()}


def draw_mask(size: tuple[int, int], generator: torch.Generator) -> Bool[Tensor, "1 h w"]:
    """What of a training picture stays known.

    GLIDE says no more than that random regions are erased.  Here one to three rectangles are (as many with
    equal probability), each side uniform between a quarter of the picture's and the whole, the place uniform
    inside; and in a tenth of the pictures everything, so that the network goes on generating.  On average
    0.60 of a picture is erased.
    """
    mask = torch.ones(1, *size, dtype=torch.bool)
    draws = torch.rand(2 + 4 * MOST_RECTANGLES, generator=generator).tolist()
    if draws[0] < NOTHING_KNOWN:
        return torch.zeros_like(mask)
    for i in range(1 + int(draws[1] * MOST_RECTANGLES)):
        spans = []
        for side, length, place in zip(size, draws[2 + 4 * i :: 2], draws[3 + 4 * i :: 2], strict=False):
            erased = max(1, round(side * (SMALLEST_SIDE + (1 - SMALLEST_SIDE) * length)))
            first = int(place * (side - erased + 1))
            spans.append(slice(first, first + erased))
        mask[:, spans[0], spans[1]] = False
    return mask
