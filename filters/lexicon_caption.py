"""Captions against word lists: our sexual, hateful and violent phrases, profanity of ``glin-profanity``.

The phrase lists were written from general knowledge and the open half of the planted captions.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from filters.normalise import NORMALISE_VERSION, score_views, views
from filters.phrases import NO_MATCH, Match, PhraseIndex, PhraseList, words_of
from filters.scorer import Samples, ScoreSpec
from filters.weights import package_file, sha256_of

DATA = Path(__file__).parent / "data" / "lexicon"
CATEGORIES = ("sexual", "hateful", "violent")
SCORES = tuple(f"lexicon_{category}" for category in (*CATEGORIES, "profane"))

# Written without spaces between words: an entry is looked for anywhere in the text.
_UNSPACED = frozenset({"chinese", "japanese", "thai", "korean"})


class LexiconCaption:
    """Scores in [0, 1]: 1 an unambiguous phrase, 0.9 a rule, 0.5 a word that is often harmless, 0 nothing.

    languages: dictionaries of glin-profanity for ``lexicon_profane``; the phrase lists are English.
    """

    name = "lexicon_caption"
    version = 2
    needs = frozenset({"captions"})
    specs = tuple(
        ScoreSpec(
            name=name, low=0.0, high=1.0, worse="high", description=f"{name.removeprefix('lexicon_')} wording"
        )
        for name in SCORES
    )

    def __init__(self, languages: Sequence[str] = ("english",)) -> None:
        self.languages = tuple(sorted(set(languages)))
        self._lists = [PhraseList.from_file(DATA / f"{category}.yaml") for category in CATEGORIES]
        dictionaries = {language: _dictionary(language) for language in self.languages}
        self._digests = {path.name: sha256_of(path) for path in dictionaries.values()}
        self._digests |= {path.name: sha256_of(path) for path in sorted(DATA.iterdir())}
        entries = {language: _entries(path) for language, path in dictionaries.items()}
        self._profane = Profanity(entries)

    def identity(self) -> dict[str, Any]:
        return {"languages": list(self.languages), "files": self._digests, "normalise": NORMALISE_VERSION}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        assert samples.captions is not None, "checked_scores checks needs"
        scores = score_views(samples.captions, self._score_texts, len(SCORES))
        return {name: scores[:, i] for i, name in enumerate(SCORES)}

    def explain(self, caption: str) -> dict[str, Match]:
        """For each score, the phrase or rule that decided it; for reports and for reading misses."""
        best = dict.fromkeys(SCORES, NO_MATCH)
        for view in views(caption):
            for name, match in zip(SCORES, self._matches(view), strict=True):
                best[name] = max(best[name], match, key=lambda m: m.score)
        return best

    def _score_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "m 4"]:
        return np.array([[match.score for match in self._matches(text)] for text in texts], dtype=np.float32)

    def _matches(self, text: str) -> list[Match]:
        words = words_of(text)
        return [*(phrases.best(words) for phrases in self._lists), self._profane.best(text, words)]


class Profanity:
    """Dictionary words by language; ambiguous English ones count half (`profane_ambiguous.txt`)."""

    def __init__(self, entries: dict[str, list[str]]) -> None:
        ambiguous = set(_lines(DATA / "profane_ambiguous.txt"))
        spaced = [
            (word, "half" if word in ambiguous else "whole")
            for language, words in entries.items()
            if language not in _UNSPACED
            for word in words
        ]
        self._index = PhraseIndex(
            [(_readable(word), label) for word, label in spaced], _lines(DATA / "profane_allow.txt")
        )
        # A one-character entry would be found inside harmless compounds.
        self._anywhere = [w for language in _UNSPACED & set(entries) for w in entries[language] if len(w) > 1]

    def best(self, text: str, words: Sequence[str]) -> Match:
        found = self._index.find(words)
        for label, score in (("whole", 1.0), ("half", 0.5)):
            if label in found:
                return Match(score=score, reason=found[label][0][1])
        lower = text.lower()
        hit = next((word for word in self._anywhere if word in lower), None)
        return Match(score=1.0, reason=hit) if hit else NO_MATCH


def _readable(entry: str) -> str:
    """Entries written in leetspeak ("$hit") as the words they hide: captions are matched in every view."""
    return views(entry)[-1] if not entry.replace(" ", "").isalnum() else entry


def _dictionary(language: str) -> Path:
    find = partial(package_file, "glin_profanity", distribution="glin-profanity", sha256=None)
    known = sorted(path.stem for path in find("data/dictionaries/english.json").parent.glob("*.json"))
    known.remove("globalWhitelist")
    if language not in known:
        raise ValueError(
            f"lexicon_caption: no dictionary for language {language!r}; known: {', '.join(known)}"
        )
    return find(f"data/dictionaries/{language}.json")


def _entries(path: Path) -> list[str]:
    return [word.lower() for word in json.loads(path.read_text(encoding="utf-8"))["words"]]


def _lines(path: Path) -> list[str]:
    """Non-empty lines without comments."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]
