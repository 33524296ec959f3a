"""Finds phrases and rules over phrases in captions, word by word: "Scunthorpe" holds no phrase but itself.

A phrase list is a YAML file (`filters/data/lexicon/*.yaml`):

- ``sets``: named sets of phrases that rules refer to;
- ``phrases``: score -> phrases that count by themselves;
- ``allow``: longer phrases that hold a listed word harmlessly; their words are read as blanks;
- ``rules``: sets that must occur together, in the given or any order, within so many words.
"""

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

# Apostrophes vanish ("don't" -> "dont"); every other mark parts words.
_APOSTROPHES = re.compile(r"['’ʼ`]")
_WORD = re.compile(r"[^\W_]+")
_ENDINGS = re.compile(r"(\w+)\(([\w|]+)\)")

# Halves of a span: first word and the word after the last one.
Span = tuple[int, int]


class Rule(BaseModel):
    """Holds when one phrase of each set occurs without overlap inside ``within`` words."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    sequence: list[str] = Field(min_length=2, max_length=3)
    order: Literal["given", "any"]
    within: int = Field(ge=2)
    score: float = Field(gt=0, le=1)


class PhraseFile(BaseModel):
    """A phrase list as written; see the module's docstring."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    schema_version: Literal[1]
    category: str
    sets: dict[str, list[str]] = {}
    phrases: dict[float, list[str]] = {}
    allow: list[str] = []
    rules: list[Rule] = []


@dataclass(frozen=True, kw_only=True)
class Match:
    """What gave a caption its score: a phrase or a rule's name."""

    score: float
    reason: str


NO_MATCH = Match(score=0.0, reason="")


def words_of(text: str) -> list[str]:
    """Words in lower case without apostrophes and accents."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        # In capitals Turkish ı is written as i is.
        text = text.replace("ı", "i")
    return _WORD.findall(_APOSTROPHES.sub("", text.lower()))


def expand(phrase: str, sets: Mapping[str, list[str]]) -> list[str]:
    """Every spelling of a list entry: ``stab(s|bed) wound(s)`` is stab, stabs, stabbed × wound, wounds.

    ``{name}`` stands for each entry of that set.
    """
    parts: list[list[str]] = []
    for part in phrase.split():
        if part.startswith("{"):
            parts.append([spelling for entry in sets[part.strip("{}")] for spelling in expand(entry, sets)])
            continue
        match = _ENDINGS.fullmatch(part)
        stem, endings = (match[1], ["", *match[2].split("|")]) if match else (part, [""])
        parts.append([stem + ending for ending in endings])
    return [" ".join(words) for words in itertools.product(*parts)]


class PhraseIndex:
    """Phrases by their words, each with labels; finds all of them in a caption in one walk over its words."""

    def __init__(self, entries: Iterable[tuple[str, str]], allow: Iterable[str] = ()) -> None:
        """entries: (spelling, label) pairs; allow: spellings whose words are blanked before the search."""
        self._labels: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for spelling, label in entries:
            words = tuple(words_of(spelling))
            if words and label not in self._labels[words]:
                self._labels[words].append(label)
        self._allowed = {tuple(words_of(spelling)) for spelling in allow}
        # Longest phrase by its first word: most words begin none, and the walk skips them at once.
        self._longest: dict[str, int] = defaultdict(int)
        for words in itertools.chain(self._labels, self._allowed):
            self._longest[words[0]] = max(self._longest[words[0]], len(words))

    def find(self, words: Sequence[str]) -> dict[str, list[tuple[Span, str]]]:
        """label -> spans of its phrases with their text, in order of appearance."""
        blank = self._blanks(words)
        found: dict[str, list[tuple[Span, str]]] = defaultdict(list)
        for span in self._candidates(words):
            labels = self._labels.get(tuple(words[slice(*span)]))
            if labels and not any(blank[slice(*span)]):
                for label in labels:
                    found[label].append((span, " ".join(words[slice(*span)])))
        return found

    def _candidates(self, words: Sequence[str]) -> Iterable[Span]:
        for start, word in enumerate(words):
            if word in self._longest:
                for end in range(start + 1, min(start + self._longest[word], len(words)) + 1):
                    yield start, end

    def _blanks(self, words: Sequence[str]) -> list[bool]:
        blank = [False] * len(words)
        for start, end in self._candidates(words):
            if tuple(words[start:end]) in self._allowed:
                blank[start:end] = [True] * (end - start)
        return blank


class PhraseList:
    """A phrase file ready to score captions."""

    def __init__(self, file: PhraseFile) -> None:
        self.category = file.category
        self.rules = tuple(file.rules)
        self._scores = {str(score): score for score in file.phrases}
        used = {name for rule in file.rules for name in rule.sequence}
        labelled = [(phrase, f"set:{name}") for name in sorted(used) for phrase in file.sets[name]]
        labelled += [(phrase, str(score)) for score, phrases in file.phrases.items() for phrase in phrases]
        entries = ((spelling, label) for phrase, label in labelled for spelling in expand(phrase, file.sets))
        allow = (spelling for phrase in file.allow for spelling in expand(phrase, file.sets))
        self._index = PhraseIndex(entries, allow)

    @classmethod
    def from_file(cls, path: Path) -> "PhraseList":
        """Raises ValueError naming the file and what is wrong with it."""
        try:
            file = PhraseFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (ValidationError, yaml.YAMLError) as error:
            raise ValueError(f"{path}: not a phrase list: {error}") from error
        for rule in file.rules:
            for name in rule.sequence:
                if name not in file.sets:
                    raise ValueError(
                        f"{path}: rule {rule.name!r}: no set {name!r}; known: {', '.join(file.sets)}"
                    )
        return cls(file)

    def best(self, words: Sequence[str]) -> Match:
        """The highest-scoring phrase or rule of a caption's words."""
        found = self._index.find(words)
        if not found:
            return NO_MATCH
        matches = [
            Match(score=score, reason=found[label][0][1])
            for label, score in self._scores.items()
            if label in found
        ]
        matches += [Match(score=rule.score, reason=rule.name) for rule in self.rules if _holds(rule, found)]
        return max(matches, key=lambda match: match.score, default=NO_MATCH)


def _holds(rule: Rule, found: Mapping[str, list[tuple[Span, str]]]) -> bool:
    spans = [[span for span, _ in found.get(f"set:{name}", ())] for name in rule.sequence]
    if not all(spans):
        return False
    orders = itertools.permutations(spans) if rule.order == "any" else [spans]
    return any(_in_order(order, rule.within) for order in orders)


def _in_order(spans: Sequence[Sequence[Span]], within: int) -> bool:
    """Whether one span of each list follows the former, all inside ``within`` words.

    Taking the earliest possible end at each step is optimal, so the cost is the product of two lengths only.
    """
    for start, end in spans[0]:
        for later in spans[1:]:
            end = min((e for s, e in later if s >= end), default=-1)
            if end < 0:
                break
        else:
            if end - start <= within:
                return True
    return False
