"""What image files out there look like, and what becomes of each."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.acquire.config import ImageConfig
from pipelines.acquire.decode import ImageRefusedError, process_image
from pipelines.acquire.states import State
from pipelines.demo.plan import Look
from pipelines.demo.render import _huge_png, render

RED = (204, 51, 51)
AS_IS = ImageConfig(mode="no", format="png", quality=3)


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def pixels(body: bytes, config: ImageConfig = AS_IS) -> np.ndarray:
    """RGB pixels after acquisition."""
    return np.asarray(Image.open(io.BytesIO(process_image(body, config).data)).convert("RGB"))


def refusal(body: bytes, **settings: Any) -> ImageRefusedError:
    with pytest.raises(ImageRefusedError) as caught:
        process_image(body, ImageConfig(mode="no", **settings))
    return caught.value


def flat(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    return Image.new("RGB", size, RED).convert(mode)


@pytest.mark.parametrize(
    ("body", "tolerance"),
    [
        (saved(flat("P"), "PNG"), 0),
        (saved(flat("P"), "GIF"), 0),
        (saved(flat("CMYK"), "JPEG", quality=100), 3),
        (saved(flat(), "WEBP", lossless=True), 0),
        (saved(flat(), "TIFF"), 0),
        (saved(flat(), "BMP"), 0),
        (saved(flat(), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 20), "blue")]), 4),
        (saved(flat(), "WEBP", lossless=True, save_all=True, append_images=[flat("L").convert("RGB")]), 0),
    ],
    ids=["palette", "gif", "cmyk", "webp", "tiff", "bmp", "animated gif", "animated webp"],
)
def test_colours_survive_every_kind_of_file(body: bytes, tolerance: int) -> None:
    result = pixels(body)
    assert result.shape == (20, 40, 3)
    assert np.abs(result.astype(int) - RED).max() <= tolerance


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[np.newaxis].repeat(64, 0)
    _, data = cv2.imencode(".png", ramp)
    assert np.array_equal(pixels(data.tobytes())[0, :, 0], np.arange(256))


def test_alpha_is_laid_on_white() -> None:
    half = Image.new("RGBA", (8, 8), (*RED, 0))
    half.putpixel((0, 0), (*RED, 255))
    half.putpixel((1, 0), (0, 0, 0, 128))
    result = pixels(saved(half, "PNG"))
    assert result[0, 0].tolist() == list(RED)
    assert result[0, 1].tolist() == [127] * 3
    assert result[5, 5].tolist() == [255] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, image_format: str) -> None:
    quadrants = np.zeros((16, 32, 3), np.uint8)
    quadrants[:8, :16], quadrants[:8, 16:], quadrants[8:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = saved(Image.fromarray(quadrants), image_format, quality=100, exif=exif)
    upright = Image.open(io.BytesIO(body))
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(upright).convert("RGB")).astype(int)
    result = pixels(body)
    assert result.shape == expected.shape
    assert np.abs(result - expected).mean() < 3  # two JPEG decoders differ a little
    stored = process_image(body, AS_IS.model_copy(update={"orientation": "as_stored"}))
    assert (stored.width, stored.height) == (32, 16)


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_no_image(image_format: Any, share: float) -> None:
    look = Look(side=256, ratio=1.0, crop=0.0, format=image_format, transparent=False, quality=90)
    body = render("2764", look)
    error = refusal(body[: int(len(body) * share)])
    assert error.state is State.DECODE_ERROR


@pytest.mark.parametrize(
    "body",
    [b"", b"<!DOCTYPE html><p>moved</p>", b"%!PS-Adobe-3.0", b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
)
def test_what_is_not_an_image_is_said_to_be_none(body: bytes) -> None:
    assert refusal(body).state is State.NOT_AN_IMAGE


def test_a_huge_header_is_refused_before_decoding() -> None:
    body = _huge_png()
    assert len(body) < 200
    assert refusal(body).state is State.TOO_LARGE


@pytest.mark.parametrize(
    ("size", "settings", "state"),
    [
        ((1, 1), {"min_side": 2}, State.TOO_SMALL),
        ((100, 31), {"min_side": 32}, State.TOO_SMALL),
        ((100, 100), {"max_pixels": 9_999}, State.TOO_LARGE),
        ((301, 100), {"max_aspect_ratio": 3.0}, State.BAD_ASPECT),
    ],
)
def test_limits(size: tuple[int, int], settings: dict[str, Any], state: State) -> None:
    body = saved(flat(size=size), "PNG")
    error = refusal(body, **settings)
    assert error.state is state
    assert f"{size[0]} x {size[1]}" in str(error)
    relaxed = {name: value * (0.9 if name == "min_side" else 1.1) for name, value in settings.items()}
    process_image(body, ImageConfig(mode="no", **{k: type(settings[k])(v) for k, v in relaxed.items()}))
