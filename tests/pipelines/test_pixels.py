"""Pixels of the images that foreign corpora hold: turned, deep, animated, damaged, no raster at all."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.annotate.chunks import ANIMATED, DAMAGED, SUCCESS, decode
from pipelines.pixels import UnreadableImageError, rgb
from pipelines.thumbnails import data_uri
from pipelines.train.stream import DamagedImageError, decode_square


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def halves() -> Image.Image:
    """Black on the left, white on the right, 4 x 2 pixels."""
    return Image.fromarray(np.repeat(np.uint8([[0, 0, 255, 255]] * 2)[..., None], 3, axis=2))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    levels = np.array([[0, 257 * 10, 257 * 128, 65535]], np.uint16)
    assert np.asarray(rgb(encoded(Image.fromarray(levels))))[0, :, 0].tolist() == [0, 10, 128, 255]


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: left becomes top
    turned = np.asarray(rgb(encoded(halves(), "PNG", exif=exif)))
    assert turned.shape == (4, 2, 3) and (turned[:2] == 0).all() and (turned[2:] == 255).all()


@pytest.mark.parametrize("format", ["WEBP", "PNG", "GIF"])
def test_an_animation_is_refused_where_all_of_it_would_be_exported(format: str) -> None:
    frames = [halves(), halves().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert decode(data) == (None, ANIMATED)
    assert rgb(data).size == (4, 2), "pages show its first frame"
    image, status = decode(encoded(halves(), format))
    assert image is not None and status == SUCCESS


def test_only_raster_formats_are_opened() -> None:
    """Page descriptions would start an interpreter."""
    data = encoded(halves(), "EPS")
    assert decode(data) == (None, DAMAGED)
    with pytest.raises(UnreadableImageError, match="do not decode: UnidentifiedImageError"):
        rgb(data)


def test_whatever_a_parser_raises_costs_one_image() -> None:
    """EXIF cut short: Pillow raises struct.error, which is neither OSError nor ValueError."""
    data = encoded(halves(), "PNG", exif=b"Exif\0\0II*\0\1")
    assert decode(data) == (None, DAMAGED)
    assert data_uri(data, 8) is None
    with pytest.raises(DamagedImageError, match=r"sample 7: .* bytes do not decode: error: unpack"):
        decode_square(data, 8, "7")
