"""The demo's harmless captions: English names of the emoji that have no skin tone."""

from __future__ import annotations


def emoji_names() -> list[str]:
    """Distinct names as captions, sorted; minimally qualified spellings of one emoji count once."""
    import emoji

    known = emoji.EMOJI_DATA.values()
    fully_qualified = {entry["en"] for entry in known if entry["status"] == emoji.STATUS["fully_qualified"]}
    names = {name.strip(":").replace("_", " ") for name in fully_qualified}
    return sorted(name for name in names if "skin tone" not in name)
