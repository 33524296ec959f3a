"""Pictures to look at: labelled rows of images on white, with the attribution their sources ask for."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Picture = UInt8[np.ndarray, "h w 3"]
GAP = 6
LINE = 15
FONT_SIZE = 12


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture with a short note under it."""

    image: Picture
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the sheet: a label on the left, pictures to its right."""

    label: str
    cells: Sequence[Cell]


def draw_sheet(
    rows: Sequence[Row],
    headers: Sequence[str],
    *,
    cell_px: int,
    title: str,
    attribution: str,
    label_px: int = 120,
) -> Image.Image:
    """A sheet of labelled rows; column c is headed by `headers[c]`.

    Every picture is scaled to `cell_px`: enlarged by whole pixels where possible, so that what is small looks
    small, and reduced by averaging.
    """
    columns = max((len(row.cells) for row in rows), default=0)
    top = LINE * 2 + GAP
    height = top + len(rows) * (cell_px + LINE + GAP) + LINE + GAP
    sheet = Image.new("RGB", (label_px + columns * (cell_px + GAP) + GAP, height), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    pen.text((GAP, 2), title, fill="black", font=font)
    for column, header in enumerate(headers):
        pen.text((label_px + column * (cell_px + GAP), LINE + 4), header, fill="black", font=font)
    for index, row in enumerate(rows):
        y = top + index * (cell_px + LINE + GAP)
        pen.multiline_text((GAP, y), textwrap.fill(row.label, label_px // 7), fill="black", font=font)
        for column, cell in enumerate(row.cells):
            x = label_px + column * (cell_px + GAP)
            sheet.paste(_fit(cell.image, cell_px), (x, y))
            pen.text(
                (x, y + cell_px), textwrap.shorten(cell.note, cell_px // 6, placeholder="…"), "gray", font
            )
    pen.text((GAP, height - LINE - 2), attribution, fill="gray", font=font)
    return sheet


def to_u8(image_m11: np.ndarray) -> UInt8[np.ndarray, "*n h w 3"]:
    """[-1, 1], channels first, to bytes, channels last."""
    pixels = np.rint((np.clip(np.moveaxis(image_m11, -3, -1), -1, 1) + 1) * 127.5)
    return pixels.astype(np.uint8)


def save_png(picture: Image.Image, path: Path) -> None:
    """PNG without any text or time, so that equal pictures are equal bytes."""
    picture.save(path, "PNG", optimize=False)


def _fit(image: Picture, side: int) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image))
    larger = side > picture.width
    return picture.resize((side, side), Image.Resampling.NEAREST if larger else Image.Resampling.BOX)
