"""Rendering the demo's files: drawings on canvases, and the files that are wrong on purpose."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

from infra.origin import Route
from pipelines.demo.drawings import svg_folder
from pipelines.demo.plan import Look, PlannedRow

NO_BODY = frozenset({"not_found", "server_error", "timeout"})
# Far beyond what may be decoded, in a file of a few dozen bytes.
HUGE_SIDE = 60_000
HTML_PAGE = b"<!DOCTYPE html>\n<html><body><p>This picture has moved to another page.</p></body></html>\n"


def content(row: PlannedRow) -> bytes | None:
    """The bytes the origin stores for a row, or None where it has none to send."""
    if row.trouble in NO_BODY:
        return None
    if row.trouble == "html_page":
        return HTML_PAGE
    if row.trouble == "one_pixel":
        return _encode(np.full((1, 1, 3), 255, np.uint8), row.look)
    if row.trouble == "too_large":
        return _huge_png()
    data = render(row.drawing.code, row.look)
    return data[: len(data) * 3 // 5] if row.trouble == "truncated" else data


def route(row: PlannedRow) -> Route | None:
    """How the origin misbehaves on a row, or None where it just serves the file."""
    return {
        "not_found": Route(status=404),
        "server_error": Route(status=500),
        "timeout": Route(hang=True),
        "html_page": Route(headers={"Content-Type": "text/html"}),
        "robots_noai": Route(headers={"X-Robots-Tag": "noai"}),
    }.get(row.trouble)


def render(code: str, look: Look) -> bytes:
    """Render one drawing as `look` says; the drawing is centred on its canvas."""
    import resvg_py

    png = bytes(
        resvg_py.svg_to_bytes(
            svg_path=str(svg_folder() / f"{code}.svg"),
            width=look.side,
            height=look.side,
            # The default of 0 fails on the drawings that are sized in pt or mm.
            dpi=96.0,
            background=None if look.transparent else "#ffffff",
            skip_system_fonts=True,
        )
    )
    if look.format == "png" and look.ratio == 1 and not look.crop:
        return png
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None  # it was just encoded
    if not look.transparent:
        image = image[:, :, :3]
    return _encode(_pad(_cropped(image, look.crop), look.ratio), look)


def _cropped(image: np.ndarray, share: float) -> np.ndarray:
    """Cut `share` of the height off the top and as much off the bottom."""
    cut = round(image.shape[0] * share)
    return image[cut : image.shape[0] - cut]


def _pad(image: np.ndarray, ratio: float) -> np.ndarray:
    """Widen (ratio above 1) or heighten a square image to `ratio`, in white or transparent."""
    side = image.shape[0]
    if ratio == 1:
        return image
    across = round(side * (ratio if ratio > 1 else 1 / ratio)) - side
    pad = (across // 2, across - across // 2)
    colour = 255 if image.shape[2] == 3 else 0
    return np.pad(
        image, ((0, 0), pad, (0, 0)) if ratio > 1 else (pad, (0, 0), (0, 0)), constant_values=colour
    )


def _encode(image: np.ndarray, look: Look) -> bytes:
    flags = {
        "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
        "jpg": [cv2.IMWRITE_JPEG_QUALITY, look.quality],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, look.quality],
    }
    _, data = cv2.imencode(f".{look.format}", image, flags[look.format])
    return data.tobytes()


def _huge_png() -> bytes:
    """A PNG whose header claims `HUGE_SIDE` pixels a side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", HUGE_SIDE, HUGE_SIDE, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body
