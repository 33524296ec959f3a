"""Ways to hide words from a filter that people still read; deterministic, one function each."""

from __future__ import annotations

import re
from collections.abc import Callable

_LEET = str.maketrans("aeiost", "431057")
_TURNED = str.maketrans("aceopxyi", "асеорхуі")  # Cyrillic, drawn alike
_ARMENIAN = str.maketrans("nouhgq", "ոօսհցզ")
_SMALL_CAPITALS = str.maketrans("abcdefghijklmnoprstuvwyz", "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ")
_FULL_WIDTH = {code: code + 0xFEE0 for code in range(ord("!"), ord("~") + 1)}


def _joined(separator: str) -> Callable[[str], str]:
    """Letters of every word of three and more, parted by `separator`; words stay three blanks apart."""

    def spaced(text: str) -> str:
        return "   ".join(separator.join(word) if len(word) > 2 else word for word in text.split())

    return spaced


def _leet_from_the_second_letter(text: str) -> str:
    return " ".join(word[:1] + word[1:].translate(_LEET) for word in text.split())


OBFUSCATIONS: dict[str, Callable[[str], str]] = {
    "as written": str,
    "upper case": str.upper,
    "leetspeak": lambda text: text.translate(_LEET),
    "leetspeak, first letter kept": _leet_from_the_second_letter,
    "zero-width space after every letter": lambda text: re.sub(r"(\w)", "\\1\u200b", text),
    "soft hyphen in every word": lambda text: re.sub(r"(\w\w)(\w)", "\\1\u00ad\\2", text),
    "Cyrillic look-alikes": lambda text: text.translate(_TURNED),
    "full width": lambda text: text.translate(_FULL_WIDTH),
    "combining accents": lambda text: re.sub(r"([aeiou])", "\\1\u0301", text),
    "letters spaced": _joined(" "),
    "letters dotted": _joined("."),
    "letters parted by middle dots": _joined("·"),
    "letters parted by commas": _joined(","),
    "letters parted by line breaks": _joined("\n"),
    "control characters in words": lambda text: re.sub(r"(\w\w)(\w)", "\\1\x01\\2", text),
    "UTF-16 read as UTF-8": lambda text: text.encode("utf-16-le").decode("utf-8", errors="replace"),
    "Hangul filler after every letter": lambda text: re.sub(r"(\w)", "\\1\u3164", text),
    "small capitals": lambda text: text.lower().translate(_SMALL_CAPITALS),
    "Armenian look-alikes": lambda text: text.lower().translate(_ARMENIAN),
    "vowels stretched": lambda text: re.sub(r"([aeiou])", r"\1\1\1\1", text),
    "underscores for blanks": lambda text: text.replace(" ", "_"),
}
