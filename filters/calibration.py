"""The threshold of a score for a target recall, and what n labels allow to be said about it.

How many of the n labelled positives a threshold must catch is fixed by n, target and confidence alone: the
smallest k whose exact lower bound reaches the target.  The threshold is then the k-th worst score of the
positives, a distribution-free tolerance limit (Wilks, Ann. Math. Stat. 12, 1941): the bound holds although
the threshold was chosen on the same labels, because the choice of k never looked at a score.  Ties can only
raise the recall.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from filters.intervals import clopper_pearson, wilson

Side = Literal["above", "below"]
"""On which side of the threshold a sample is flagged: the words of a policy's bounds, which are strict."""


class NotEnoughLabels(ValueError):
    """A claim that the labels cannot carry; the message says how many would."""


class Rate(NamedTuple):
    """k of n, with both intervals; `share` is nan of nothing."""

    k: int
    n: int
    level: float

    @property
    def share(self) -> float:
        return self.k / self.n if self.n else math.nan

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `share` is null of nothing."""
        return {
            "k": self.k,
            "n": self.n,
            "share": round(self.share, 6) if self.n else None,
            "wilson": [round(end, 6) for end in wilson(self.k, self.n, self.level)],
            "clopper_pearson": [round(end, 6) for end in clopper_pearson(self.k, self.n, self.level)],
        }


class Rates(NamedTuple):
    """What a threshold does on labelled samples.  Precision depends on how many of these are positive."""

    precision: Rate
    recall: Rate
    false_negative_rate: Rate
    false_positive_rate: Rate

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: rate.to_dict() for name, rate in self._asdict().items()}


class Calibration(NamedTuple):
    """A chosen threshold: flagged is what lies strictly on `side` of it."""

    threshold: float
    side: Side
    target: float
    level: float
    rates: Rates
    auc: float
    """Chance that a positive is worse than a negative, ties counted half; nan without negatives."""


def positives_needed(target: float, level: float = 0.95) -> int:
    """Fewest labelled positives of which catching all puts recall's lower bound at `target` or above.

    Raises ValueError unless target and level lie in (0, 1): no number of labels proves a recall of 1.
    """
    if not 0 < target < 1 or not 0 < level < 1:
        raise ValueError(f"expected target recall and level between 0 and 1, got {target} and {level}")
    # Of n in n the exact interval begins at (tail)^(1/n).
    n = math.ceil(math.log((1 - level) / 2) / math.log(target) - 1e-9)
    return max(n, 1)


def hits_needed(positives: int, target: float, level: float = 0.95) -> int:
    """Smallest k whose exact lower bound of k in `positives` is at least `target`.

    Raises NotEnoughLabels where even all of them do not reach it.
    """
    needed = positives_needed(target, level)
    if positives < needed:
        reached = clopper_pearson(positives, positives, level).low
        raise NotEnoughLabels(
            f"{positives} labelled positives support a recall of at most {reached:.3f} (exact {level:.0%} "
            f"interval, all of them caught), target {target:g}: label at least {needed - positives} more, "
            f"{needed} in all, or lower the target"
        )
    low, high = 1, positives
    while low < high:
        middle = (low + high) // 2
        if clopper_pearson(middle, positives, level).low >= target:
            high = middle
        else:
            low = middle + 1
    return low


def calibrate(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    target: float,
    *,
    side: Side = "above",
    level: float = 0.95,
) -> Calibration:
    """The strictest threshold, a float32 as scores are, whose recall is at least `target` with confidence.

    Raises NotEnoughLabels where the positives are too few, ValueError for a target outside (0, 1).
    """
    k = hits_needed(int(positive.sum()), target, level)
    worst_first = np.sort(_badness(scores, side)[positive])[::-1]
    # Bounds are strict: the k-th positive itself must be flagged.
    bound = np.nextafter(worst_first[k - 1], np.float32(-np.inf))
    threshold = float(bound if side == "above" else -bound)
    return Calibration(
        threshold=threshold,
        side=side,
        target=target,
        level=level,
        rates=rates_at(scores, positive, threshold, side=side, level=level),
        auc=auc(_badness(scores, side), positive),
    )


def rates_at(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    threshold: float,
    *,
    side: Side = "above",
    level: float = 0.95,
) -> Rates:
    """Precision, recall and the two error rates of a threshold on labelled samples."""
    caught = flagged(scores, threshold, side)
    hits, misses = int((caught & positive).sum()), int((~caught & positive).sum())
    false_alarms, negatives = int((caught & ~positive).sum()), int((~positive).sum())
    return Rates(
        precision=Rate(hits, hits + false_alarms, level),
        recall=Rate(hits, hits + misses, level),
        false_negative_rate=Rate(misses, hits + misses, level),
        false_positive_rate=Rate(false_alarms, negatives, level),
    )


def flagged(scores: Float[np.ndarray, " n"], threshold: float, side: Side) -> Bool[np.ndarray, " n"]:
    """Rows strictly on `side` of the threshold, compared in float32 as a policy does."""
    values, bound = scores.astype(np.float32), np.float32(threshold)
    return values > bound if side == "above" else values < bound


def auc(badness: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC curve (Mann and Whitney's statistic); nan without a positive or a negative."""
    from scipy.stats import rankdata

    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return math.nan
    return float((rankdata(badness)[positive].sum() - n * (n + 1) / 2) / (n * m))


def _badness(scores: Float[np.ndarray, " n"], side: Side) -> Float[np.ndarray, " n"]:
    values = scores.astype(np.float32)
    return values if side == "above" else -values
