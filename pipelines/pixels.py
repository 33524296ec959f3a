"""From an image's bytes to its pixels: what annotation judges, training learns from, and pages show."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Raster formats that OpenCV decodes too.  Pillow, asked to recognise anything, would also start interpreters
# of page description languages.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


class UnreadableImageError(ValueError):
    """Bytes that are no whole image of a known format."""


class AnimatedImageError(UnreadableImageError):
    """An image of several frames, where all of it would have to be seen."""


def rgb(data: bytes, *, still: bool = False) -> Image.Image:
    """The image in RGB, turned as its EXIF orientation says, transparency on white, 16 bits scaled to 8.

    Of an animation it is the first frame; with `still` an animation raises AnimatedImageError.  Raises
    UnreadableImageError for what does not decode.
    """
    from PIL import Image, ImageOps

    try:
        picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        # Several frames in a JPEG (MPO) are previews and gain maps of one photograph.
        if still and picture.format != "MPO" and getattr(picture, "is_animated", False):
            raise AnimatedImageError(f"{len(data)} bytes are an animation, expected a still image")
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode.startswith("I;16"):  # to which `convert` would clip
            picture = Image.fromarray(np.rint(np.asarray(picture) / 257).astype(np.uint8))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture.convert("RGB")
    except AnimatedImageError:
        raise
    # Pillow's parsers raise nearly anything, from struct.error to SyntaxError.
    except Exception as error:
        what = f"{len(data)} bytes do not decode: {type(error).__name__}: {error}"
        raise UnreadableImageError(what) from error
