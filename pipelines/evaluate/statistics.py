"""Figures with their uncertainty: every number of an evaluation is one of these.

Samples are the images of the held-out split.  Whatever was drawn more than once for one image (timesteps,
noise) is averaged first, so that the interval is over images, the unit that was sampled.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
NORMAL_QUANTILE = 1.959964
"""Two-sided 95 % of the normal distribution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A measured value with its 95 % interval [low, high], standard error and number of samples."""

    value: float
    low: float
    high: float
    standard_error: float
    n: int
    what: str = ""
    """One line for the report: what was measured, on what."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def mean(values: Float[np.ndarray, " n"], *, seed: int, resamples: int = 2000, what: str = "") -> Figure:
    """Mean of per-sample values with a percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    Raises `ValueError` for no or non-finite values: a mean of nothing is not a figure.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"expected a row of finite values, got shape {values.shape}: {what or 'a mean'}")
    generator = np.random.default_rng(seed)
    n = len(values)
    # Counts of a multinomial are the bootstrap's resampled indices, without the (resamples, n) gather.
    counts = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
    low, high = np.quantile(counts @ values / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    error = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    return Figure(
        value=float(values.mean()), low=float(low), high=float(high), standard_error=error, n=n, what=what
    )


def paired_difference(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], *, seed: int, what: str = ""
) -> Figure:
    """Mean of a - b over the same samples; what the samples share cancels, so the interval is narrow."""
    if len(a) != len(b):
        raise ValueError(
            f"paired difference: {len(a)} and {len(b)} values are not of the same samples ({what})"
        )
    return mean(np.asarray(a, np.float64) - np.asarray(b, np.float64), seed=seed, what=what)


def standard_errors_below(ours: Float[np.ndarray, " n"], baseline: Float[np.ndarray, " n"]) -> float:
    """How many paired standard errors `ours` lies below `baseline` on average; negative when it lies above.

    Equal in every sample is 0; a difference without any spread is far away, reported as 1e6 at most.
    """
    difference = np.asarray(baseline, np.float64) - np.asarray(ours, np.float64)
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    if difference.mean() == 0:
        return 0.0
    return float(np.clip(difference.mean() / max(error, 1e-300), -1e6, 1e6))


def derangement(n: int, seed: int) -> np.ndarray:
    """A permutation of 0..n-1 that leaves nothing in its place: each caption meets some other image.

    A random cyclic shift of a random order.  Raises `ValueError` for fewer than 2.
    """
    if n < 2:
        raise ValueError(f"a derangement needs at least 2 samples, got {n}")
    order = np.random.default_rng(seed).permutation(n)
    result = np.empty(n, dtype=np.int64)
    result[order] = np.roll(order, 1)
    return result
