"""The contract of a scorer: what it reads of a batch of samples, which named scores it returns.

A scorer is one file and one line in ``filters.registry``.  Thresholds are no part of it: a policy holds them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

Direction = Literal["high", "low", "neither"]


@dataclass(frozen=True, kw_only=True)
class ScoreSpec:
    """One named score: its closed range, and which end is worse ("neither" for facts such as a width)."""

    name: str
    low: float
    high: float
    worse: Direction
    description: str

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"score {self.name!r}: low ({self.low}) must be below high ({self.high})")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A batch of n samples.  What a pipeline did not load is None; a missing caption is the empty string.

    images: RGB uint8 of any size.  Embeddings need not be normalised; both kinds share one dimension d.
    scores: by name, what the scorers before have made of these samples, for a scorer that combines scores.
    Raises ValueError when a field does not hold n entries.
    """

    keys: list[str]
    images: list[UInt8[np.ndarray, "h w 3"]] | None = None
    captions: list[str] | None = None
    image_embeddings: Float[np.ndarray, "n d"] | None = None
    text_embeddings: Float[np.ndarray, "n d"] | None = None
    scores: Mapping[str, Float[np.ndarray, " n"]] | None = None

    def __post_init__(self) -> None:
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "scores"}
        columns |= {f"scores[{name!r}]": values for name, values in (self.scores or {}).items()}
        for name, value in columns.items():
            if value is not None and len(value) != len(self.keys):
                raise ValueError(
                    f"samples.{name} has {len(value)} entries, expected {len(self.keys)}, one per key"
                )
        for key, image in zip(self.keys, self.images or [], strict=False):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(
                    f"samples.images, key {key!r}: expected uint8 (h, w, 3), got {image.dtype} {image.shape}"
                )

    def __len__(self) -> int:
        return len(self.keys)


SAMPLE_FIELDS = frozenset(field.name for field in fields(Samples)) - {"keys"}


@runtime_checkable
class Scorer(Protocol):
    """Scores samples.  Equal samples give equal scores, whatever the batch they come in.

    version: bumped by hand when the scores of equal input change.  needs: names of `Samples` fields.
    """

    name: str
    version: int
    needs: frozenset[str]
    specs: tuple[ScoreSpec, ...]

    def identity(self) -> dict[str, Any]:
        """JSON-able facts that can change the scores: weight digests, word-list digests, options."""
        ...

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        """float32 scores by name, one array of n for each of ``specs``."""
        ...


@runtime_checkable
class ReadsPrompts(Protocol):
    """A scorer that compares images with prompts of its own.

    Whoever runs it embeds ``prompts`` once, with the encoder that made the image embeddings, and hands them
    over before the first batch.
    """

    prompts: tuple[str, ...]

    def use_prompts(self, embeddings: Float[np.ndarray, "p d"]) -> None:
        """Rows in the order of ``prompts``; they need not be normalised."""
        ...


@runtime_checkable
class CombinesScores(Protocol):
    """A scorer that needs ``scores``: runs after all others and reads these names of theirs."""

    reads: tuple[str, ...]


@runtime_checkable
class MakesOnDemand(Protocol):
    """A scorer class whose scores depend on its options: it is asked before one is made."""

    @classmethod
    def makes(cls, scores: Collection[str]) -> tuple[dict[str, Any], tuple[ScoreSpec, ...]]:
        """Options with which it makes those of ``scores`` that it can, and all specs it has with them."""
        ...


class ScoreError(ValueError):
    """A scorer broke its contract, or was given samples without what it needs."""


def checked_scores(scorer: Scorer, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
    """The scorer's scores in the order of its specs, held to their declared names, shape and range.

    Raises ScoreError naming the scorer, the score and the first bad key.
    """
    missing = sorted(need for need in scorer.needs if getattr(samples, need) is None)
    if missing:
        raise ScoreError(
            f"scorer {scorer.name!r} needs {', '.join(missing)}, which these samples do not carry"
        )
    scores = scorer.score(samples)
    declared = [spec.name for spec in scorer.specs]
    if sorted(scores) != sorted(declared):
        raise ScoreError(
            f"scorer {scorer.name!r} returned scores {sorted(scores)}, declared {sorted(declared)}"
        )
    for spec in scorer.specs:
        _check_values(scorer.name, spec, scores, samples.keys)
    return {name: scores[name] for name in declared}


def _check_values(scorer: str, spec: ScoreSpec, scores: Mapping[str, np.ndarray], keys: list[str]) -> None:
    values = scores[spec.name]
    where = f"scorer {scorer!r}, score {spec.name!r}"
    if values.shape != (len(keys),) or values.dtype != np.float32:
        raise ScoreError(f"{where}: expected float32 ({len(keys)},), got {values.dtype} {values.shape}")
    # A comparison with NaN is false: the negation catches it together with what is out of range.
    bad = ~((values >= spec.low) & (values <= spec.high))
    if bad.any():
        first = int(np.argmax(bad))
        raise ScoreError(
            f"{where}: expected [{spec.low}, {spec.high}], got {values[first]} at key {keys[first]!r} "
            f"({int(bad.sum())} of {len(keys)} are out of range)"
        )
