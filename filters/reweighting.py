"""Weights that give a filtered set the distribution of the unfiltered one again, by a classifier of the two.

After OpenAI's "DALL-E 2 pre-training mitigations" (2022): a classifier tells unfiltered from filtered
samples; where it says P(unfiltered | x) = p, the filtered sample x gets the weight p / (1 - p), the ratio of
the two densities.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from filters.calibration import auc

FOLDS = 5


class Rows(Protocol):
    """Embeddings by ascending row numbers: an array, or what reads them from disk."""

    def __getitem__(self, rows: Int[np.ndarray, " chosen"], /) -> Float[np.ndarray, "chosen d"]: ...


_BLOCK = 65_536
"""Rows classified at once."""


class DensityRatio(NamedTuple):
    """ratio: unfiltered over filtered density at each row, its mean over the kept rows near 1, not clipped.
    auc: how well the classifier tells removed rows from kept ones it was not fitted on; .5 is not at all.
    """

    ratio: Float[np.ndarray, " n"]
    auc: float


def density_ratio(
    embeddings: Rows,
    kept: Bool[np.ndarray, " n"],
    *,
    regularisation: float = 1.0,
    fit_rows: int = 50_000,
    seed: int = 0,
) -> DensityRatio:
    """Cross-fitted: no row is weighed by a classifier that has seen it, so none is told apart by heart.

    embeddings: of the unfiltered set, among which `kept` are the filtered.  regularisation: L2 strength of
    the logistic regression on standardised embeddings (1 / C of scikit-learn).  At most `fit_rows` rows,
    evenly spread, enter a fit.  Without a removed row, or with fewer than two rows a fold, nothing can be
    learned: all ones.
    """
    n, kept_count = len(kept), int(kept.sum())
    if kept_count in (0, n) or n < 2 * FOLDS:
        return DensityRatio(np.ones(n), 0.5)
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    logits = np.zeros(n)
    for number in range(FOLDS):
        fit = np.flatnonzero(fold != number)
        rows = fit[np.linspace(0, len(fit) - 1, min(len(fit), fit_rows)).astype(int)]
        if kept[rows].any():
            weigh = np.flatnonzero(fold == number)
            logits[weigh] = _logits(embeddings, rows, kept, weigh, regularisation)
    return DensityRatio(np.exp(np.clip(logits, -30, 30)), auc(logits, ~kept))


def clipped_weights(ratio: Float[np.ndarray, " n"], clip: float) -> Float[np.ndarray, " n"]:
    """The ratios within [1 / clip, clip], then scaled to mean 1: few samples must not carry a training."""
    if not clip > 1:
        raise ValueError(f"clip: expected a number above 1, got {clip}")
    weights = np.clip(ratio, 1 / clip, clip)
    return weights / weights.mean() if len(weights) else weights


def effective_samples(weights: Float[np.ndarray, " n"]) -> float:
    """Kish's effective sample size: how many equally weighted samples would be as informative."""
    return float(weights.sum() ** 2 / (weights**2).sum()) if len(weights) else 0.0


def _logits(
    embeddings: Rows,
    fit: Int[np.ndarray, " f"],
    kept: Bool[np.ndarray, " n"],
    weigh: Int[np.ndarray, " w"],
    regularisation: float,
) -> Float[np.ndarray, " w"]:
    """Log density ratios of the rows `weigh` by a classifier fitted on the rows `fit`."""
    from sklearn.linear_model import LogisticRegression

    whole = embeddings[fit].astype(np.float64)
    mean, scale = whole.mean(axis=0), whole.std(axis=0)
    scale[scale == 0] = 1.0
    whole = (whole - mean) / scale
    filtered = whole[kept[fit]]
    model = LogisticRegression(C=1 / regularisation, max_iter=1000)
    model.fit(np.concatenate([whole, filtered]), np.r_[np.ones(len(whole)), np.zeros(len(filtered))])
    parts = [
        model.decision_function((embeddings[rows].astype(np.float64) - mean) / scale)
        for rows in np.array_split(weigh, -(-len(weigh) // _BLOCK))
    ]
    # The classes' sizes are no part of the densities.
    return np.concatenate(parts) + np.log(len(filtered) / len(whole))
