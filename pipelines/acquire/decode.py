"""From fetched bytes to the picture that is stored: header checks, decoding, resizing, encoding.

Pixels and encoded bytes equal img2dataset's for equal settings.  Deliberate differences: limits are checked
on the header, before memory is spent; EXIF orientation is applied unless told otherwise; 16-bit samples are
scaled to 8 bits (img2dataset clips them); what is not an image, or is cut short, is told apart.  `icc` and
`fast_jpeg` (pipelines/acquire/config.py) change pixels, and are off unless asked for.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from pipelines.acquire.colour import cmyk_to_srgb, fits, on_white, to_srgb
from pipelines.acquire.config import ImageConfig
from pipelines.acquire.resize import is_resized, resize, resized_shape
from pipelines.acquire.states import State
from pipelines.pixels import FORMATS

EXIF_ORIENTATION = 0x0112
QUALITY_FLAG = {
    "jpg": cv2.IMWRITE_JPEG_QUALITY,
    "png": cv2.IMWRITE_PNG_COMPRESSION,
    "webp": cv2.IMWRITE_WEBP_QUALITY,
}
# JPEG decoded at 1/n of its size, by n; OpenCV would turn it by EXIF as well.
REDUCED = {
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
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
TRANSPOSED = frozenset({5, 6, 7, 8})
# An ICC profile begins with a header of this size.
MIN_PROFILE_BYTES = 128


class ImageRefusedError(ValueError):
    """Bytes that do not become a sample; `state` says in which state their row ends."""

    def __init__(self, state: State, message: str) -> None:
        super().__init__(message)
        self.state = state


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What an image file says of itself before its pixels: `size` is (height, width), `mode` is Pillow's."""

    format: str
    mode: str
    size: tuple[int, int]
    orientation: int
    icc: bytes | None


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
    header = check_header(body, config)
    reduction = _reduction(header, config)
    image = _decoded(body, header, config, reduction)
    turned = config.orientation == "exif" and header.orientation in ORIENT
    if turned:
        image = ORIENT[header.orientation](image)
    original_height, original_width = image.shape[:2]
    if reduction > 1:
        transposed = turned and header.orientation in TRANSPOSED
        original_height, original_width = header.size[::-1] if transposed else header.size
    image = resize(image, config, (original_height, original_width))
    height, width = image.shape[:2]
    keep = config.icc == "keep" and header.icc is not None and fits(header.icc, image)
    return Picture(
        data=encode(image, config, header.icc if keep else None),
        width=width,
        height=height,
        original_width=original_width,
        original_height=original_height,
    )


def check_header(body: bytes, config: ImageConfig) -> Header:
    """The header, after checking limits on it alone; raises `ImageRefusedError`."""
    try:
        with Image.open(io.BytesIO(body), formats=FORMATS) as opened:
            width, height = opened.size
            icc = opened.info.get("icc_profile") if config.icc != "drop" else None
            image_format, mode = opened.format or "", opened.mode
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
    return Header(
        format=image_format,
        mode=mode,
        size=(height, width),
        orientation=orientation if isinstance(orientation, int) else 1,
        icc=icc if isinstance(icc, bytes) and len(icc) >= MIN_PROFILE_BYTES else None,
    )


def decode(body: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    """The first frame as uint8, grey (h, w) or BGR (h, w, 3), alpha laid on white; raises if damaged."""
    try:
        image = cv2.imdecode(np.frombuffer(body, np.uint8), flags)
    except cv2.error as error:
        raise ImageRefusedError(State.DECODE_ERROR, f"cannot be decoded: {error.err}") from None
    if image is None:
        raise ImageRefusedError(State.DECODE_ERROR, "cannot be decoded: damaged or cut short")
    if image.dtype == np.uint16:
        image = np.rint(image / 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ImageRefusedError(State.DECODE_ERROR, f"samples of type {image.dtype}, expected 8 or 16 bits")
    if image.ndim == 3 and image.shape[-1] == 4:
        return on_white(image)
    if image.ndim == 3 and image.shape[-1] != 3:
        raise ImageRefusedError(State.DECODE_ERROR, f"{image.shape[-1]} channels, expected 1, 3 or 4")
    return image


def encode(image: np.ndarray, config: ImageConfig, icc: bytes | None = None) -> bytes:
    """Encode a grey or BGR image in the configured format, with an ICC profile where one is given."""
    extension, parameters = f".{config.format}", [QUALITY_FLAG[config.format], config.quality]
    try:
        if icc is None:
            done, data = cv2.imencode(extension, image, parameters)
        else:
            profile = np.frombuffer(icc, np.uint8)
            done, data = cv2.imencodeWithMetadata(
                extension, image, [cv2.IMAGE_METADATA_ICCP], [profile], parameters
            )
    except cv2.error:
        done = False
    if not done:  # formats have a longest side: 16,383 for WebP
        size = f"{image.shape[1]} x {image.shape[0]} pixels"
        raise ImageRefusedError(State.TOO_LARGE, f"{size} cannot be encoded as {config.format}")
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


def _decoded(body: bytes, header: Header, config: ImageConfig, reduction: int) -> np.ndarray:
    """The image as `decode` gives it, 1 / `reduction` as large, in sRGB where that is asked for."""
    profile = header.icc if config.icc == "convert_srgb" else None
    if profile is not None and header.mode == "CMYK":
        try:
            image = cmyk_to_srgb(body, profile)
        except Exception as error:  # as in check_header
            message = f"cannot be decoded: {type(error).__name__}: {error}"
            raise ImageRefusedError(State.DECODE_ERROR, message) from error
        if image is not None:
            return image
    image = decode(body, REDUCED[reduction]) if reduction > 1 else decode(body)
    return image if profile is None else to_srgb(image, profile)


def _reduction(header: Header, config: ImageConfig) -> int:
    """By how much a JPEG may be decoded smaller and still be no smaller than what will be stored."""
    height, width = header.size
    fast = config.fast_jpeg and header.format == "JPEG" and header.mode == "RGB"
    if not fast or not is_resized(width, height, config):
        return 1
    across, down = resized_shape(width, height, config)
    return max((n for n in REDUCED if width // n >= across and height // n >= down), default=1)


def _check_limits(width: int, height: int, config: ImageConfig) -> None:
    size = f"{width} x {height} pixels"
    if width * height > config.max_pixels:
        raise ImageRefusedError(State.TOO_LARGE, f"{size}, expected at most {config.max_pixels} in all")
    if min(width, height) < max(config.min_side, 1):
        raise ImageRefusedError(State.TOO_SMALL, f"{size}, expected sides of at least {config.min_side}")
    if max(width, height) > config.max_aspect_ratio * min(width, height):
        raise ImageRefusedError(State.BAD_ASPECT, f"{size}, expected at most {config.max_aspect_ratio:g} : 1")
