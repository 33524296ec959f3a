"""Colours: alpha on white, embedded ICC profiles, CMYK with a profile."""

from __future__ import annotations

import functools
import io
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageCms

# Bytes 16 to 20 of a profile: the space its colours are in, by Pillow's name of the pixels it fits.
SPACE = slice(16, 20)
SPACES = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}


def on_white(image: np.ndarray) -> np.ndarray:
    """Lay uint8 BGRA on white: `alpha / 255 * colour + 255 - alpha`, rounded, to the last bit as in float64.

    A product of two bytes over 255 is never half-way between two integers, so that single precision rounds
    as img2dataset's float64 does, at a tenth of its time.
    """
    alpha = cv2.cvtColor(cv2.extractChannel(image, 3), cv2.COLOR_GRAY2BGR)
    colour = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    return cv2.add(cv2.multiply(colour, alpha, scale=1 / 255), cv2.bitwise_not(alpha))


def fits(profile: bytes, image: np.ndarray) -> bool:
    """Whether a profile is sound and describes such pixels: grey (h, w) or colour (h, w, 3)."""
    return _srgb_transform(profile, _mode(image)) is not None


def to_srgb(image: np.ndarray, profile: bytes) -> np.ndarray:
    """uint8 grey or BGR in a profile's colours -> BGR in sRGB.

    A profile that is damaged or of another space says nothing about the pixels: they are returned as they
    are, which is how browsers show them.
    """
    transform = _srgb_transform(profile, _mode(image))
    if transform is None:
        return image
    rgb = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    converted = ImageCms.applyTransform(Image.fromarray(rgb), transform)
    return cv2.cvtColor(np.asarray(converted), cv2.COLOR_RGB2BGR)


def cmyk_to_srgb(body: bytes, profile: bytes) -> np.ndarray | None:
    """BGR in sRGB of an encoded CMYK image, None where its profile cannot be used.

    Needs the inks themselves: OpenCV's decoder has already turned them into some RGB.
    """
    transform = _srgb_transform(profile, "CMYK")
    if transform is None:
        return None
    with Image.open(io.BytesIO(body), formats=("JPEG", "TIFF")) as opened:
        converted = ImageCms.applyTransform(opened, transform)
    return cv2.cvtColor(np.asarray(converted), cv2.COLOR_RGB2BGR)


@functools.lru_cache(maxsize=32)
def _srgb_transform(profile: bytes, mode: str) -> Any:
    if profile[SPACE] != SPACES[mode]:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None


def _mode(image: np.ndarray) -> str:
    return "L" if image.ndim == 2 else "RGB"
