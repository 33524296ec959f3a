"""From fetched bytes to the picture that is stored: header checks, decoding, resizing, encoding.

Pixels and encoded bytes equal img2dataset's for equal settings.  Deliberate differences: limits are checked
on the header, before memory is spent; EXIF orientation is applied unless told otherwise; 16-bit samples are
scaled to 8 bits (img2dataset clips them); what is not an image, or is cut short, is told apart.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from pipelines.acquire.config import ImageConfig
from pipelines.acquire.states import State

# Raster formats that OpenCV decodes.  Pillow, asked to recognise anything, would also start interpreters
# of page description languages.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
EXIF_ORIENTATION = 0x0112
INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "bilinear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
    "lanczos4": cv2.INTER_LANCZOS4,
}
QUALITY_FLAG = {
    "jpg": cv2.IMWRITE_JPEG_QUALITY,
    "png": cv2.IMWRITE_PNG_COMPRESSION,
    "webp": cv2.IMWRITE_WEBP_QUALITY,
}
# EXIF 2.32, tag 0x0112: how the stored rows and columns become the picture.
ORIENT = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: lambda image: cv2.transpose(image),
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


class ImageRefusedError(ValueError):
    """Bytes that do not become a sample; `state` says in which state their row ends."""

    def __init__(self, state: State, message: str) -> None:
        super().__init__(message)
        self.state = state


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An encoded image, its size in pixels, and the size of the image it was made from."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int


def process_image(body: bytes, config: ImageConfig) -> Picture:
    """Check, decode, resize and encode one image; raises `ImageRefusedError`."""
    orientation = check_header(body, config)
    image = decode(body)
    if config.orientation == "exif" and orientation in ORIENT:
        image = ORIENT[orientation](image)
    original_height, original_width = image.shape[:2]
    image = resize(image, config)
    height, width = image.shape[:2]
    return Picture(
        data=encode(image, config),
        width=width,
        height=height,
        original_width=original_width,
        original_height=original_height,
    )


def check_header(body: bytes, config: ImageConfig) -> int:
    """EXIF orientation (1 to 8), after checking limits on the header alone; raises `ImageRefusedError`."""
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as opened:
            width, height = opened.size
            # Only where the block was met before the pixels: Pillow decodes a whole PNG to find a late one.
            orientation = opened.getexif().get(EXIF_ORIENTATION, 1) if "exif" in opened.info else 1
    except UnidentifiedImageError:
        raise ImageRefusedError(
            State.NOT_AN_IMAGE, f"expected an image, got {len(body)} bytes beginning {body[:16]!r}"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageRefusedError(State.TOO_LARGE, str(error)) from None
    # A damaged header makes Pillow's parsers raise nearly anything, from struct.error to SyntaxError.
    except Exception as error:
        message = f"damaged header: {type(error).__name__}: {error}"
        raise ImageRefusedError(State.DECODE_ERROR, message) from error
    _check_limits(width, height, config)
    return orientation if isinstance(orientation, int) else 1


def decode(body: bytes) -> np.ndarray:
    """The first frame as uint8, grey (h, w) or BGR (h, w, 3), alpha laid on white; raises if damaged."""
    try:
        image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageRefusedError(State.DECODE_ERROR, f"cannot be decoded: {error.err}") from None
    if image is None:
        raise ImageRefusedError(State.DECODE_ERROR, "cannot be decoded: damaged or cut short")
    if image.dtype == np.uint16:
        image = np.rint(image / 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ImageRefusedError(State.DECODE_ERROR, f"samples of type {image.dtype}, expected 8 or 16 bits")
    if image.ndim == 3 and image.shape[-1] == 4:
        alpha = image[:, :, 3, np.newaxis]
        # In float64, as img2dataset does it: float32 would round some pixels the other way.
        image = alpha / 255 * image[..., :3] + 255 - alpha
        image = np.rint(image.clip(min=0, max=255)).astype(np.uint8)
    return image


def resize(image: np.ndarray, config: ImageConfig) -> np.ndarray:
    """img2dataset's resize modes; returns the array itself where nothing is to be done."""
    if config.mode == "no":
        return image
    height, width = image.shape[:2]
    by_shorter_side = config.mode in ("keep_ratio", "center_crop")
    reference = min(height, width) if by_shorter_side else max(height, width)
    if config.only_if_bigger and reference <= config.size:
        return image
    interpolation = (
        config.downscale_interpolation if reference > config.size else config.upscale_interpolation
    )
    scale = config.size / reference
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    if shape != (width, height):
        image = cv2.resize(image, shape, interpolation=INTERPOLATION[interpolation])
    if config.mode == "center_crop":
        return _center_crop(image, config.size)
    return _pad_white(image, config.size) if config.mode == "border" else image


def encode(image: np.ndarray, config: ImageConfig) -> bytes:
    """Encode a grey or BGR image in the configured format."""
    _, data = cv2.imencode(f".{config.format}", image, [QUALITY_FLAG[config.format], config.quality])
    return data.tobytes()


def exif_json(body: bytes) -> str | None:
    """img2dataset's `exif` column: all tags as one JSON object of strings, None where unreadable."""
    import exifread

    try:
        tags = exifread.process_file(io.BytesIO(body), details=False)
    # The column is a by-product of a picture that was decoded: nothing in it may cost the sample.
    except Exception:
        return None
    return json.dumps({name: str(value).strip() for name, value in tags.items() if value is not None})


def _center_crop(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def _pad_white(image: np.ndarray, size: int) -> np.ndarray:
    down, right = size - image.shape[0], size - image.shape[1]
    top, left = down // 2, right // 2
    return cv2.copyMakeBorder(
        image, top, down - top, left, right - left, cv2.BORDER_CONSTANT, value=(255, 255, 255)
    )


def _check_limits(width: int, height: int, config: ImageConfig) -> None:
    size = f"{width} x {height} pixels"
    if width * height > config.max_pixels:
        raise ImageRefusedError(State.TOO_LARGE, f"{size}, expected at most {config.max_pixels} in all")
    if min(width, height) < max(config.min_side, 1):
        raise ImageRefusedError(State.TOO_SMALL, f"{size}, expected sides of at least {config.min_side}")
    if max(width, height) > config.max_aspect_ratio * min(width, height):
        raise ImageRefusedError(State.BAD_ASPECT, f"{size}, expected at most {config.max_aspect_ratio:g} : 1")
