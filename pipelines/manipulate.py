"""Variations, interpolations and text differences of images with a model folder (2204.06125, section 3).

An image is taken apart into z, its embedding, and x_T, its noise (`models.manipulation`); the caption is left
empty, because z says what it shows.  Every function returns pictures by stage, the last the largest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipelines.encoders.base import center_crop
from pipelines.generate import GenerateError, Picture, Sampler
from pipelines.pictures import to_u8

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 64_000_000
STEPS = 50


def read_picture(path: Path) -> Picture:
    """An image file as RGB, what is transparent on white.  Raises `GenerateError` where it is none."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise GenerateError(f"{path}: expected at most {MAX_PIXELS:,} pixels, got {image.size}")
            rgba = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, GenerateError):
            raise
        raise GenerateError(f"{path}: cannot be read as an image: {error}") from error
    white = Image.new("RGBA", rgba.size, "white")
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))


def vary(
    sampler: Sampler, image: Picture, *, count: int, eta: float = 0.7, seed: int = 0, steps: int = STEPS
) -> list[list[Picture]]:
    """`count` images of the same z and x_T: DDIM with `eta` > 0 changes details (section 3.1), 0 nothing."""
    z, x_T = _latents(sampler, [image], steps)
    return _draw(sampler, z.repeat(count, 1), x_T.repeat(count, 1, 1, 1), eta=eta, seed=seed, steps=steps)


def interpolate(
    sampler: Sampler, first: Picture, last: Picture, *, count: int, seed: int = 0, steps: int = STEPS
) -> list[list[Picture]]:
    """`count` images from `first` to `last`, z and x_T both turned by slerp (section 3.2)."""
    from models.manipulation import interpolation_path

    z, x_T = _latents(sampler, [first, last], steps)
    fractions = np.linspace(0, 1, count).tolist()
    return _draw(
        sampler,
        interpolation_path(z[:1], z[1:], fractions),
        interpolation_path(x_T[:1], x_T[1:], fractions),
        eta=0.0,
        seed=seed,
        steps=steps,
    )


def text_diff(
    sampler: Sampler,
    image: Picture,
    prompt: str,
    baseline: str,
    *,
    count: int,
    most: float = 0.35,
    seed: int = 0,
    steps: int = STEPS,
) -> list[list[Picture]]:
    """`count` images from `image` towards what tells `prompt` from `baseline` (section 3.3).

    `most` is the last point of the path; the paper takes 0.25 to 0.5.  x_T stays, so that the rest does.
    """
    import torch

    from models.manipulation import text_diff_path

    for text in (prompt, baseline):
        sampler.check(text)
    z, x_T = _latents(sampler, [image], steps)
    texts = torch.from_numpy(sampler.encoder.encode_texts([prompt, baseline]))
    try:
        path = text_diff_path(z, texts[:1], texts[1:], np.linspace(0, most, count).tolist())
    except ValueError as error:
        raise GenerateError(f"{prompt!r} and {baseline!r}: {error}") from error
    return _draw(sampler, path, x_T.repeat(count, 1, 1, 1), eta=0.0, seed=seed, steps=steps)


def _latents(sampler: Sampler, images: Sequence[Picture], steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """z and x_T of images of any size; their middle square is taken, as the encoder takes it."""
    import torch

    from models.manipulation import invert

    model = sampler.cascade.model
    size = model.config.decoder.image_size
    small = np.stack([center_crop(image, size) for image in images])
    pixels_m11 = torch.from_numpy(small.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
    z = torch.from_numpy(sampler.encoder.encode_images(list(images)))
    return z, invert(model, pixels_m11, z, *_no_caption(len(images)), steps=steps)


def _draw(
    sampler: Sampler, z: torch.Tensor, x_T: torch.Tensor, *, eta: float, seed: int, steps: int
) -> list[list[Picture]]:
    model, sampling = sampler.cascade.model, sampler.sampling
    # Without guidance: what inverts is the plain decoder.
    settings = dataclasses.replace(sampling.decoder, sampler="ddim", steps=steps, eta=eta, guidance=1.0)
    stages = [model.decode(z, *_no_caption(len(z)), seed=seed, settings=settings, x_T=x_T)]
    for stage in range(len(model.upsamplers)):
        settings, text = sampling.upsamplers[stage], _no_caption(len(z))
        stages.append(model.upsample(stages[-1], stage, *text, seed=seed, settings=settings))
    pictures = [to_u8(images.numpy()) for images in stages]
    return [[stage[i] for stage in pictures] for i in range(len(z))]


def _no_caption(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return torch.zeros(count, 1, dtype=torch.long), torch.zeros(count, 1, dtype=torch.bool)
