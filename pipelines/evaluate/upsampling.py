"""An upsampler on held-out images against bicubic interpolation of the very same degraded input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from models.cascade import UnCLIP
from models.sampling import StageSampling
from pipelines.evaluate.held_out import Prompts
from pipelines.evaluate.statistics import Figure, mean, paired_difference
from pipelines.pictures import to_u8

Images = UInt8[np.ndarray, "n h w 3"]


@dataclass(frozen=True, kw_only=True)
class UpsamplerResult:
    """Figures, and the pictures behind them as bytes, row i of each the same image."""

    figures: dict[str, Figure]
    low_res: Images
    bicubic: Images
    ours: Images


def evaluate_upsampler(
    cascade: UnCLIP,
    stage: int,
    images: Images,
    degrade: Callable[[Float[Tensor, "n 3 H W"]], Float[Tensor, "n 3 h w"]],
    prompts: Prompts,
    *,
    sampling: StageSampling,
    seed: int,
    batch: int,
) -> UpsamplerResult:
    """PSNR and SSIM of upsampler `stage` and of bicubic, both from `degrade(images)`, and their difference.

    `images` have the upsampler's full output size; `degrade` is the corruption it was trained on;
    `prompts` their captions, which only some upsamplers read.
    """
    size = cascade.config.upsamplers[stage].image_size
    low_res = degrade(from_u8(images)).clamp(-1, 1)
    outputs = []
    for start in range(0, len(low_res), batch):
        rows = slice(start, start + batch)
        text = prompts.tokens[rows], prompts.mask[rows]
        part = cascade.upsample(low_res[rows], stage, *text, seed=seed, settings=sampling, first_index=start)
        outputs.append(part)
    ours = to_u8(torch.cat(outputs).numpy())
    enlarged = F.interpolate(low_res, (size, size), mode="bicubic", align_corners=False).clamp(-1, 1)
    bicubic = to_u8(enlarged.numpy())
    figures = {}
    measures = {"psnr_db": psnr_db, "ssim": ssim}
    for name, measure in measures.items():
        mine, theirs = measure(ours, images), measure(bicubic, images)
        figures[name] = mean(mine, seed=seed, what=f"{name} of the upsampler at {size} px")
        figures[f"{name}_bicubic"] = mean(
            theirs, seed=seed, what=f"{name} of bicubic at {size} px, same input"
        )
        figures[f"{name}_gain"] = paired_difference(
            mine, theirs, seed=seed, what=f"{name}, upsampler minus bicubic at {size} px, same input"
        )
    return UpsamplerResult(figures=figures, low_res=to_u8(low_res.numpy()), bicubic=bicubic, ours=ours)


def from_u8(images: Images) -> Float[Tensor, "n 3 h w"]:
    """Bytes, channels last, to [-1, 1], channels first."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr_db(a: Images, b: Images) -> Float[np.ndarray, " n"]:
    """Peak signal-to-noise ratio per image over RGB bytes, in dB; at most 54.15, an error of half a level."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean(axis=(1, 2, 3))
    values: np.ndarray = 10 * np.log10(255.0**2 / np.maximum(error, 0.25))
    return values


def ssim(a: Images, b: Images) -> Float[np.ndarray, " n"]:
    """Structural similarity per image, mean over channels and places (Wang et al. 2004, eq. 13).

    Gaussian window 11x11, sigma 1.5; K1 0.01, K2 0.03, as the paper.
    """
    import cv2

    def smooth(x: np.ndarray) -> np.ndarray:
        # Without its border of 5: there the window would look past the image.
        return cv2.GaussianBlur(x, (11, 11), 1.5)[5:-5, 5:-5]

    values = []
    for one, other in zip(a, b, strict=True):
        x, y = one.astype(np.float32), other.astype(np.float32)
        mean_x, mean_y, xx, yy, xy = (smooth(z) for z in (x, y, x * x, y * y, x * y))
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        contrast = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
        values.append(float((luminance * contrast).mean(dtype=np.float64)))
    return np.array(values)
