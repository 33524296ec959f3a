"""What the demo's origin offers: which drawing under which path, how it looks, and what is wrong with it."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipelines.demo.drawings import Drawing, catalogue

PLANTED_FILE = Path(__file__).parent / "planted_captions.csv"
CLEAN, PLANTED, SKIN_TONE = "clean", "planted", "skin_tone"
EXACT_DUPLICATE, NEAR_DUPLICATE = "exact_duplicate", "near_duplicate"

# Classes of trouble and how often each occurs among the troubled rows.
TROUBLE_WEIGHTS = {
    "not_found": 16,
    "server_error": 9,
    "timeout": 4,
    "html_page": 12,
    "truncated": 12,
    "one_pixel": 10,
    "too_large": 6,
    "robots_noai": 12,
    EXACT_DUPLICATE: 10,
    NEAR_DUPLICATE: 9,
}
SIDES = ((192, 1), (256, 5), (320, 4), (384, 4), (512, 4), (640, 2))
LARGE_SIDES = ((1024, 8), (1152, 2))
ImageFormat = Literal["png", "jpg", "webp"]
FORMATS: tuple[tuple[ImageFormat, int], ...] = (("jpg", 5), ("png", 3), ("webp", 2))
# Width by height of the canvas; the drawing fills its shorter side, so that a centre crop shows it whole.
RATIOS = ((1.0, 5), (4 / 3, 2), (3 / 4, 1), (16 / 9, 1), (2 / 3, 1))
OTHER_FORMAT: dict[ImageFormat, ImageFormat] = {"jpg": "webp", "webp": "png", "png": "jpg"}
# The set's drawings keep a margin of a tenth; this much is cut off two opposite sides at most.
CROP = 0.06
CAPTIONS = (("{}", 7), ("{} emoji", 1), ("a drawing of {}", 1), ("{}, flat icon", 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How a drawing is rendered: shorter side in pixels, canvas ratio, share cut off, encoding."""

    side: int
    ratio: float
    crop: float
    format: ImageFormat
    transparent: bool
    quality: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRow:
    """One row of the URL list, with the truth about it; `original` is the index of what it duplicates."""

    drawing: Drawing
    caption: str
    look: Look
    trouble: str = CLEAN
    category: str = ""
    half: str = ""
    original: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Amounts:
    """How much of everything: `images` distinct drawings in all, `trouble` the share of troubled rows."""

    images: int
    large: int
    planted: int
    skin_tones: int
    trouble: float

    @property
    def clean(self) -> int:
        return self.images - self.planted - self.skin_tones

    @property
    def troubled(self) -> int:
        return round(self.images / (1 - self.trouble)) - self.images


def plan_rows(amounts: Amounts, seed: int) -> list[PlannedRow]:
    """All rows in the order of the URL list: trouble lies anywhere, `original` refers to this order."""
    rng = random.Random(seed)
    rows = _clean_rows(amounts, rng)
    rows += _skin_tone_rows(rows, amounts.skin_tones, rng)
    rows += _planted_rows(amounts.planted, rng)
    rows += _troubled_rows(rows[: amounts.clean], amounts.troubled, rng)
    order = list(range(len(rows)))
    rng.shuffle(order)
    position = {old: new for new, old in enumerate(order)}
    shuffled = []
    for old in order:
        original = rows[old].original
        shuffled.append(replace(rows[old], original=None if original is None else position[original]))
    return shuffled


def path_of(index: int, row: PlannedRow) -> str:
    """The row's path at the origin: position, name of the drawing, extension."""
    slug = re.sub(r"[^a-z0-9]+", "-", row.drawing.name.lower()).strip("-") or "drawing"
    return f"images/{index:05d}-{slug}.{row.look.format}"


def planted_captions() -> list[dict[str, str]]:
    """The planted captions, `half,category,caption`, as committed before any threshold was tuned."""
    with PLANTED_FILE.open(newline="") as stream:
        return list(csv.DictReader(stream))


def available() -> int:
    """The most clean drawings there can be."""
    return len(catalogue().plain) + len(catalogue().flags)


def allocate(total: int, weights: dict[str, int]) -> dict[str, int]:
    """Split `total` by weight into whole numbers, one to each at least where there are enough."""
    floor = 1 if total >= len(weights) else 0
    free, whole = total - floor * len(weights), sum(weights.values())
    counts, reached, given = {}, 0, 0
    for name, weight in weights.items():
        reached += weight
        due = round(free * reached / whole)
        counts[name], given = floor + due - given, due
    return counts


def _pick(rng: random.Random, choices: Sequence[tuple[Any, int]]) -> Any:
    return rng.choices([c for c, _ in choices], [w for _, w in choices])[0]


def _look(rng: random.Random, sides: Sequence[tuple[int, int]] = SIDES) -> Look:
    image_format = _pick(rng, FORMATS)
    cropped = sides is SIDES and rng.random() < 0.25  # a large one stays as large as it says
    return Look(
        side=_pick(rng, sides),
        ratio=1.0 if cropped else _pick(rng, RATIOS),
        crop=rng.uniform(0.0, CROP) if cropped else 0.0,
        format=image_format,
        transparent=image_format != "jpg" and rng.random() < 0.6,
        quality=rng.randint(80, 95),
    )


def _clean_rows(amounts: Amounts, rng: random.Random) -> list[PlannedRow]:
    """The clean drawings, flags only where the others do not suffice; the first `large` ones are large."""
    plain, flags = list(catalogue().plain), list(catalogue().flags)
    drawings = rng.sample(plain, min(amounts.clean, len(plain)))
    drawings += rng.sample(flags, amounts.clean - len(drawings))
    rows = []
    for index, drawing in enumerate(drawings):
        caption = str(_pick(rng, CAPTIONS)).format(drawing.name)
        look = _look(rng, LARGE_SIDES if index < amounts.large else SIDES)
        rows.append(PlannedRow(drawing=drawing, caption=caption, look=look))
    return rows


def _skin_tone_rows(clean: list[PlannedRow], count: int, rng: random.Random) -> list[PlannedRow]:
    """Near duplicates as they occur in life: the same drawing with another skin tone."""
    index_of = {row.drawing.code: index for index, row in enumerate(clean)}
    toned = [drawing for drawing in catalogue().toned if drawing.concept in index_of]
    return [
        PlannedRow(
            drawing=drawing,
            caption=drawing.name,
            look=_look(rng),
            trouble=SKIN_TONE,
            original=index_of[drawing.concept],
        )
        for drawing in rng.sample(toned, min(count, len(toned)))
    ]


def _planted_rows(count: int, rng: random.Random) -> list[PlannedRow]:
    captions = planted_captions()
    chosen = [captions[index * len(captions) // count] for index in range(count)]
    drawings = rng.sample(list(catalogue().neutral), count)
    return [
        PlannedRow(
            drawing=drawing,
            caption=planted["caption"],
            look=_look(rng),
            trouble=PLANTED,
            category=planted["category"],
            half=planted["half"],
        )
        for planted, drawing in zip(chosen, drawings, strict=True)
    ]


def _troubled_rows(clean: list[PlannedRow], count: int, rng: random.Random) -> list[PlannedRow]:
    """Rows that fail, on flags (of no other use here), and duplicates of small clean rows."""
    flags = catalogue().flags
    small = [index for index, row in enumerate(clean) if row.look.side <= 640]
    rows = []
    for trouble, number in allocate(count, TROUBLE_WEIGHTS).items():
        for _ in range(number):
            if trouble in (EXACT_DUPLICATE, NEAR_DUPLICATE):
                original = rng.choice(small)
                look = clean[original].look
                if trouble == NEAR_DUPLICATE:
                    look = replace(
                        look,
                        side=look.side * 3 // 4,
                        format=OTHER_FORMAT[look.format],
                        transparent=False,
                    )
                rows.append(replace(clean[original], look=look, trouble=trouble, original=original))
            else:
                drawing = rng.choice(flags)
                rows.append(
                    PlannedRow(drawing=drawing, caption=drawing.name, look=_look(rng), trouble=trouble)
                )
    return rows
