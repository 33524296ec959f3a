"""Distances between two sets of images, on the features of a *named* encoder.

Both are squared maximum mean discrepancies (Gretton et al. 2012, eq. 3, the unbiased estimate), which unlike
a Fréchet distance are unbiased at small n; the feature space is part of the metric's name.  Neither is FID.

- KID (Binkowski et al., 1801.01401, section 4): polynomial kernel (x.y / d + 1)^3 on raw features.
- CMMD (Jayasumana et al., 2401.09603, section 4): Gaussian kernel with sigma 10 on unit-norm embeddings,
  times 1000.  The paper defines it on CLIP ViT-L/14; here on whatever encoder is named beside the figure.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from pipelines.evaluate.ridge import unit
from pipelines.evaluate.statistics import NORMAL_QUANTILE, Figure

Features = Float[np.ndarray, "n d"]
Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0


def kid(x: Features, y: Features, *, what: str = "") -> Figure:
    """Kernel inception distance between two sets of features; about 0 for two samples of one distribution."""
    return _mmd(np.asarray(x, np.float64), np.asarray(y, np.float64), _polynomial, 1.0, what)


def cmmd(x: Features, y: Features, *, what: str = "") -> Figure:
    """CLIP maximum mean discrepancy between two sets of embeddings (scaled to unit norm here)."""
    return _mmd(unit(np.asarray(x, np.float64)), unit(np.asarray(y, np.float64)), _gaussian, CMMD_SCALE, what)


def _polynomial(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    values: np.ndarray = (a @ b.T / a.shape[1] + 1) ** 3
    return values


def _gaussian(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    values: np.ndarray = np.exp(-np.maximum(squared, 0) / (2 * CMMD_SIGMA**2))
    return values


def _mmd(x: np.ndarray, y: np.ndarray, kernel: Kernel, scale: float, what: str) -> Figure:
    """The unbiased estimate with a delete-one jackknife standard error over both sets.

    A bootstrap would repeat samples, and a kernel finds a repeated sample equal to itself: the diagonal that
    the unbiased estimate leaves out would come back in.  The jackknife repeats nothing.  Where both sets are
    of one distribution the estimate is degenerate and the jackknife's error too large (by about a half):
    the interval of a floor is a cautious one.
    """
    m, n = len(x), len(y)
    if m < 3 or n < 3:
        raise ValueError(
            f"a distance between sets needs at least 3 samples in each, got {m} and {n} ({what})"
        )
    k_xx, k_yy, k_xy = kernel(x, x), kernel(y, y), kernel(x, y)
    np.fill_diagonal(k_xx, 0)
    np.fill_diagonal(k_yy, 0)
    sum_xx, sum_yy, sum_xy = k_xx.sum(), k_yy.sum(), k_xy.sum()
    within_x, within_y = sum_xx / (m * (m - 1)), sum_yy / (n * (n - 1))
    value = within_x + within_y - 2 * sum_xy / (m * n)
    without_x = (
        (sum_xx - 2 * k_xx.sum(1)) / ((m - 1) * (m - 2))
        + within_y
        - 2 * (sum_xy - k_xy.sum(1)) / ((m - 1) * n)
    )
    without_y = (
        within_x
        + (sum_yy - 2 * k_yy.sum(1)) / ((n - 1) * (n - 2))
        - 2 * (sum_xy - k_xy.sum(0)) / (m * (n - 1))
    )
    variance = (m - 1) * without_x.var() + (n - 1) * without_y.var()
    error = float(np.sqrt(variance)) * scale
    return Figure(
        value=float(value) * scale,
        low=float(value) * scale - NORMAL_QUANTILE * error,
        high=float(value) * scale + NORMAL_QUANTILE * error,
        standard_error=error,
        n=min(m, n),
        what=what,
    )
