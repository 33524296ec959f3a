"""Pictures made of picture files with a model folder (2204.06125, section 3; inpainting: 2112.10741).

`models.manipulator` draws; here files are read, encoded, and cut to the model's sizes.  Every function
returns pictures by stage, the last the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from pipelines.encoders.base import center_crop
from pipelines.generate import GenerateError, Picture, Sampler
from pipelines.pictures import to_u8

if TYPE_CHECKING:
    import torch

    from models.manipulator import Latents, Manipulator
    from models.pca import Pca

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
    draw = _manipulator(sampler, seed, steps)
    return _pictures(draw.vary(_latents(draw, sampler, image), count, eta=eta))


def reconstruct(
    sampler: Sampler, image: Picture, *, seed: int = 0, steps: int = STEPS
) -> list[list[Picture]]:
    """The image as the model gives it back from z and x_T, in a list of one."""
    draw = _manipulator(sampler, seed, steps)
    return _pictures(draw.reconstruct(_latents(draw, sampler, image)))


def principal(
    sampler: Sampler, image: Picture, pca: Pca, kept: Sequence[int], *, seed: int = 0, steps: int = STEPS
) -> list[list[Picture]]:
    """The image as the first principal components of its embedding tell it, one a number of them (Fig. 7)."""
    import torch

    draw = _manipulator(sampler, seed, steps)
    z = torch.from_numpy(sampler.encoder.encode_images([image]))
    try:
        return _pictures(draw.principal(z, pca, kept))
    except ValueError as error:
        raise GenerateError(str(error)) from error


def interpolate(
    sampler: Sampler,
    first: Picture,
    last: Picture,
    *,
    count: int,
    noise: Literal["slerp", "fixed"] = "slerp",
    seed: int = 0,
    steps: int = STEPS,
) -> list[list[Picture]]:
    """`count` images from `first` to `last`, z turned by slerp, x_T as well or fixed (section 3.2)."""
    draw = _manipulator(sampler, seed, steps)
    start, end = _latents(draw, sampler, first), _latents(draw, sampler, last)
    return _pictures(draw.interpolate(start, end, count, noise=noise))


def text_diff(
    sampler: Sampler,
    image: Picture,
    prompt: str,
    baseline: str,
    *,
    count: int,
    most: float = 0.35,
    arithmetic: bool = False,
    seed: int = 0,
    steps: int = STEPS,
) -> list[list[Picture]]:
    """`count` images from `image` towards what tells `prompt` from `baseline` (section 3.3), `most` of the
    angle or with `arithmetic` of the difference of the texts' embeddings."""
    import torch

    for text in (prompt, baseline):
        sampler.check(text)
    draw = _manipulator(sampler, seed, steps)
    texts = torch.from_numpy(sampler.encoder.encode_texts([prompt, baseline]))
    latents = _latents(draw, sampler, image)
    try:
        moved = draw.text_diff(latents, texts[:1], texts[1:], count, most=most, arithmetic=arithmetic)
    except ValueError as error:
        raise GenerateError(f"{prompt!r} and {baseline!r}: {error}") from error
    return _pictures(moved)


def inpaint(
    sampler: Sampler, image: Picture, mask: Picture, prompt: str, *, count: int, seed: int = 0
) -> list[list[Picture]]:
    """`count` images of `prompt` that keep `image` where `mask` is white and are new where it is black.

    Both are cut to their middle square and brought to the model's size; what is known stays to the bit.
    Raises `GenerateError` where the sizes differ, or the mask leaves nothing to paint.
    """
    import torch

    from models.inpainting import Known

    sampler.check(prompt)
    if mask.shape != image.shape:
        sizes = [f"{picture.shape[1]}x{picture.shape[0]} px" for picture in (mask, image)]
        raise GenerateError(f"the mask has {sizes[0]}, the image {sizes[1]}: draw it over the image itself")
    model = sampler.cascade.model
    known = _known(mask, model.image_size)
    if known.all():
        raise GenerateError("the mask is white all over: nothing is left to paint; black is painted anew")
    tokens, valid = sampler.text(prompt)
    text = torch.from_numpy(sampler.encoder.encode_texts([prompt]))
    repeated = (x.repeat_interleave(count, dim=0) for x in (tokens, valid, text))
    told = Known(
        pixels_m11=_pixels_m11(image, model.image_size).expand(count, -1, -1, -1),
        mask=torch.from_numpy(known).expand(count, 1, -1, -1),
    )
    return _pictures(model.inpaint(told, *repeated, seed=seed, sampling=sampler.sampling).images_m11)


def _known(mask: Picture, size: int) -> np.ndarray:
    """[size, size], True where no black pixel took part in what `center_crop` makes of the place.

    White filtered as the image is filtered stays 1 but for rounding.
    """
    white = Image.fromarray((mask.min(axis=2) > 127).astype(np.float32))
    scale = size / min(white.size)
    wide, high = max(size, round(white.width * scale)), max(size, round(white.height * scale))
    filtered = white.resize((wide, high), Image.Resampling.BICUBIC, reducing_gap=3.0)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.abs(np.asarray(filtered.crop((left, top, left + size, top + size))) - 1) < 1e-3


def _manipulator(sampler: Sampler, seed: int, steps: int) -> Manipulator:
    from models.manipulator import Manipulator

    upsamplers = sampler.sampling.upsamplers
    return Manipulator(sampler.cascade.model, steps=steps, seed=seed, upsamplers=upsamplers)


def _latents(draw: Manipulator, sampler: Sampler, image: Picture) -> Latents:
    """z and x_T of an image of any size; its middle square is taken, as the encoder takes it."""
    import torch

    z = torch.from_numpy(sampler.encoder.encode_images([image]))
    return draw.latents(_pixels_m11(image, sampler.cascade.model.config.decoder.image_size), z)


def _pixels_m11(image: Picture, size: int) -> torch.Tensor:
    import torch

    pixels = torch.from_numpy(center_crop(image, size).astype(np.float32) / 127.5 - 1)
    return pixels.permute(2, 0, 1)[None].contiguous()


def _pictures(stages: Sequence[torch.Tensor]) -> list[list[Picture]]:
    pictures = [to_u8(images.numpy()) for images in stages]
    return [[stage[i] for stage in pictures] for i in range(len(stages[0]))]
