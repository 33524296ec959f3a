"""All scorers over a batch in one pass: the image is decoded and embedded once, combinations come last."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from filters.scorer import CombinesScores, Samples, ScoreError, Scorer, checked_scores


def score_in_one_pass(scorers: Sequence[Scorer], samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
    """Scores of all scorers by name: plain scorers in the order given, then those that combine scores.

    Every scorer is given the fields that it needs and no other.  Raises ScoreError as `checked_scores`, and
    where a combination reads a score that nobody has made.
    """
    scores: dict[str, np.ndarray] = {}
    for scorer in sorted(scorers, key=_combines):
        given = {name: getattr(samples, name) for name in scorer.needs}
        if isinstance(scorer, CombinesScores):
            given["scores"] = _read(scorer, scores)
        scores |= checked_scores(scorer, replace(Samples(keys=samples.keys), **given))
    return scores


def combination_problems(scorers: Sequence[Scorer]) -> list[str]:
    """For each scorer that combines scores, the ones it reads and no plain scorer of these declares."""
    made = [spec.name for scorer in scorers if not _combines(scorer) for spec in scorer.specs]
    return [
        f"scorer {scorer.name!r} combines score {name!r}, which no other scorer makes; "
        f"made are: {', '.join(sorted(made)) or 'none'}"
        for scorer in scorers
        if isinstance(scorer, CombinesScores)
        for name in scorer.reads
        if name not in made
    ]


def _combines(scorer: Scorer) -> bool:
    return isinstance(scorer, CombinesScores)


def _read(scorer: CombinesScores, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    missing = [name for name in scorer.reads if name not in scores]
    if missing:
        raise ScoreError(f"{type(scorer).__name__} combines {', '.join(missing)}, which no scorer has made")
    return {name: scores[name] for name in scorer.reads}
