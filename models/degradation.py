"""Corruption of the upsamplers' low resolution input in training (unCLIP, 2204.06125, section 2.1).

All images are float tensors in [-1, 1], [batch, 3, height, width]; random numbers come from an explicit
generator.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from models.bsr import BsrSettings, degrade


def downsample(image_m11: Float[Tensor, "B 3 H W"], size: int | tuple[int, int]) -> Float[Tensor, "B 3 h w"]:
    """Resize down by averaging areas, as ADM makes its low resolution input (2105.05233): no overshoot, no
    aliasing."""
    height, width = (size, size) if isinstance(size, int) else size
    if height > image_m11.shape[2] or width > image_m11.shape[3]:
        raise ValueError(
            f"downsample: {height}x{width} is larger than the image, {tuple(image_m11.shape[2:])}"
        )
    return F.interpolate(image_m11, (height, width), mode="area")


def blur(
    image_m11: Float[Tensor, "B 3 H W"], kernel: int = 3, sigma: float = 0.6
) -> Float[Tensor, "B 3 H W"]:
    """Gaussian blur of the first upsampler's input; unCLIP: kernel 3, sigma 0.6 (pixels of the low
    resolution)."""
    if kernel < 1 or kernel % 2 == 0 or sigma <= 0:
        raise ValueError(f"blur: expected an odd kernel and a positive sigma, got {kernel=}, {sigma=}")
    offsets = torch.arange(kernel, dtype=torch.float64) - kernel // 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    taps = (weights / weights.sum()).to(image_m11)
    padded = F.pad(image_m11, [kernel // 2] * 4, mode="reflect")
    vertical = F.conv2d(padded, taps.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)
    return F.conv2d(vertical, taps.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)


def bsr(
    image_m11: Float[Tensor, "B 3 H W"],
    scale: int,
    generator: torch.Generator,
    settings: BsrSettings | None = None,
) -> Float[Tensor, "B 3 H//{scale} W//{scale}"]:
    """Blind super-resolution degradation of the second upsampler's input: random blur, resizing, noise and
    JPEG in random order (BSRGAN, 2103.14006, section 3.5), down by `scale`.

    unCLIP names Rombach et al.'s; the default settings are those of their lighter variant.  One number of
    `generator` seeds each image, so that the result does not depend on the batch split beyond the order of
    images. Runs on the CPU; the result is on the input's device.
    """
    height, width = image_m11.shape[2:]
    if scale < 1 or height % scale or width % scale:
        raise ValueError(f"bsr: the sides must be divisible by scale={scale}, got {height}x{width}")
    seeds = torch.randint(2**63 - 1, (len(image_m11),), generator=generator, device=generator.device).tolist()
    pixels = ((image_m11.detach().cpu().float() + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    degraded = [
        degrade(one, scale, seed, settings or BsrSettings()) for one, seed in zip(pixels, seeds, strict=True)
    ]
    stacked = torch.stack([torch.from_numpy(one) for one in degraded]).permute(0, 3, 1, 2)
    return (stacked * 2 - 1).to(image_m11).contiguous()
