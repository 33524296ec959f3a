"""What a caption is about, as far as its words tell."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


def concept_of(caption: str, ignored: Sequence[re.Pattern[str]]) -> str:
    """The caption's words, case folded, without what `ignored` matches; empty where no word is left.

    Two captions of one concept describe the same thing in other clothes: "a drawing of OK hand" and "OK hand:
    dark skin tone", where both additions are ignored.
    """
    text = unicodedata.normalize("NFKC", caption).casefold()
    for pattern in ignored:
        text = pattern.sub(" ", text)
    return " ".join(re.findall(r"\w+", text))


def compile_ignored(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    """Compiled patterns; raises ValueError naming one that is no regular expression."""
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(f"ignored caption pattern {pattern!r}: {error}") from None
    return compiled
