"""What image files out there look like, and what becomes of each."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from pipelines.acquire.colour import on_white
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


def ycck(cmyk_jpeg: bytes) -> bytes:
    """The same inks as luminance, chrominance and black, as Photoshop writes them: Adobe's transform 2."""
    inks = 255 - np.asarray(Image.open(io.BytesIO(cmyk_jpeg)))
    y, red, blue = cv2.split(cv2.cvtColor(255 - inks[..., :3], cv2.COLOR_RGB2YCrCb))
    stored = [Image.fromarray(255 - channel) for channel in (y, blue, red, inks[..., 3])]
    body = bytearray(saved(Image.merge("CMYK", stored), "JPEG", quality=100, subsampling=0))
    body[body.index(b"Adobe") + 11] = 2
    return bytes(body)


def test_ycck_is_read_as_the_cmyk_it_stands_for() -> None:
    body = saved(flat("CMYK"), "JPEG", quality=100)
    assert np.abs(pixels(ycck(body)).astype(int) - pixels(body)).max() <= 4


def test_alpha_rounds_as_float64_does_for_every_colour_and_alpha() -> None:
    alpha, colour = np.mgrid[0:256, 0:256].astype(np.uint8)
    image = np.dstack([colour, colour, colour, alpha])
    exact = alpha[..., None] / 255 * image[..., :3] + 255 - alpha[..., None]
    assert np.array_equal(on_white(image), np.rint(exact.clip(0, 255)).astype(np.uint8))


@pytest.mark.parametrize(
    "body",
    [
        saved(flat("LA"), "PNG"),
        saved(flat("RGBA").quantize(8), "PNG"),
        saved(flat("P"), "PNG", transparency=0),
        saved(flat("1"), "PNG"),
        saved(flat(), "PNG", save_all=True, append_images=[Image.new("RGB", (40, 20), "blue")]),
    ],
    ids=["grey and alpha", "palette with alpha", "palette with a transparent colour", "one bit", "animated"],
)
def test_pngs_of_every_kind_are_seen_as_pillow_sees_their_first_frame(body: bytes) -> None:
    frame = Image.open(io.BytesIO(body)).convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", frame.size, "white"), frame)
    assert np.abs(pixels(body).astype(int) - np.asarray(white.convert("RGB"))).max() <= 1


def test_sixteen_bit_tiffs_and_alpha() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[np.newaxis].repeat(64, 0)
    _, data = cv2.imencode(".tiff", ramp)
    assert np.array_equal(pixels(data.tobytes())[0, :, 0], np.arange(256))
    _, data = cv2.imencode(".png", np.dstack([ramp, ramp, ramp, np.full_like(ramp, 65535)]))
    assert np.array_equal(pixels(data.tobytes())[0, :, 0], np.arange(256))


def swapped_profile() -> bytes:
    """A profile in which red and green have changed places, so that a conversion cannot be overlooked."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_embedded_profile_is_dropped_or_converted(image_format: str) -> None:
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(image_format, {})
    body = saved(flat(), image_format, icc_profile=swapped_profile(), **options)
    assert np.abs(pixels(body).astype(int) - RED).max() <= 3
    converted = pixels(body, AS_IS.model_copy(update={"icc": "convert_srgb"}))[0, 0]
    assert converted[1] > converted[0]  # it has become green


@pytest.mark.parametrize("profile", [b"x" * 300, swapped_profile()[:200], b""])
def test_a_damaged_profile_says_nothing(profile: bytes) -> None:
    body = saved(flat(), "PNG", icc_profile=profile)
    for icc in ("convert_srgb", "keep"):
        assert np.array_equal(pixels(body, AS_IS.model_copy(update={"icc": icc}))[0, 0], RED)


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
def test_a_profile_can_be_kept(image_format: Any) -> None:
    profile = swapped_profile()
    config = ImageConfig(mode="no", format=image_format, quality=9, icc="keep")
    stored = process_image(saved(flat(), "PNG", icc_profile=profile), config)
    assert Image.open(io.BytesIO(stored.data)).info["icc_profile"] == profile
    without = process_image(saved(flat(), "PNG"), config)
    assert "icc_profile" not in Image.open(io.BytesIO(without.data)).info


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["border", "keep_ratio", "keep_ratio_largest", "center_crop"])
def test_fast_jpeg_differs_by_less_than_three_levels_on_average(mode: Any, orientation: int) -> None:
    """Measured on a line drawing, the hard case: 1.1 (border) to 2.1 (center_crop) of 255; equal sizes."""
    look = Look(side=700, ratio=4 / 3, crop=0.0, format="jpg", transparent=False, quality=90)
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = saved(Image.open(io.BytesIO(render("1F9ED", look))), "JPEG", quality=90, exif=exif)
    config = ImageConfig(mode=mode, size=128, format="png", quality=3)
    exact, fast = (
        process_image(body, config),
        process_image(body, config.model_copy(update={"fast_jpeg": True})),
    )
    assert (fast.width, fast.height) == (exact.width, exact.height)
    assert (fast.original_width, fast.original_height) == (exact.original_width, exact.original_height)
    images = [np.asarray(Image.open(io.BytesIO(found.data))).astype(int) for found in (exact, fast)]
    difference = np.abs(images[0] - images[1])
    assert 0 < difference.mean() < 3


def test_what_a_format_cannot_hold_is_too_large_for_it() -> None:
    body = saved(Image.new("L", (17_000, 4)), "PNG")
    error = refusal(body, format="webp", quality=80, max_aspect_ratio=10_000)
    assert (error.state, "cannot be encoded as webp" in str(error)) == (State.TOO_LARGE, True)
