"""What a caption is about, as far as its words tell."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# No other sign: "keycap #" and "keycap *" are two things.
_PUNCTUATION = re.compile(r"[,:;.!?()\"'“”‘’]")


def concept_of(caption: str, ignored: Sequence[re.Pattern[str]]) -> str:
    """The caption case folded, without punctuation and what `ignored` matches; empty where nothing is left.

    Two captions of one concept describe the same thing in other clothes: "a drawing of OK hand" and "OK hand:
    dark skin tone", where both additions are ignored.
    """
    text = unicodedata.normalize("NFKC", caption).casefold()
    for pattern in ignored:
        text = pattern.sub(" ", text)
    return " ".join(_PUNCTUATION.sub(" ", text).split())


def compile_ignored(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    """Compiled patterns; raises ValueError naming one that is no regular expression."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(f"ignored caption pattern {pattern!r}: {error}") from None
    return compiled
