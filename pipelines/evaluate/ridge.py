"""Ridge regression from text to image embeddings: the linear baseline a prior has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

ALPHAS = tuple(float(a) for a in np.logspace(-3, 3, 13))


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """y = (x - mean_x) W + mean_y, the minimiser of |Y - XW|^2 + alpha |W|^2 on centred data."""

    weights: Float[np.ndarray, "d_in d_out"]
    mean_x: Float[np.ndarray, " d_in"]
    mean_y: Float[np.ndarray, " d_out"]
    alpha: float

    def predict(self, x: Float[np.ndarray, "n d_in"]) -> Float[np.ndarray, "n d_out"]:
        return (x - self.mean_x) @ self.weights + self.mean_y


def fit_ridge(
    x: Float[np.ndarray, "n d_in"],
    y: Float[np.ndarray, "n d_out"],
    x_validation: Float[np.ndarray, "m d_in"],
    y_validation: Float[np.ndarray, "m d_out"],
    alphas: tuple[float, ...] = ALPHAS,
) -> Ridge:
    """Fit on (x, y) for each alpha and return the one with the highest mean cosine on validation.

    One SVD serves all alphas: W = V diag(s / (s^2 + alpha)) U^T Y (Hastie et al., ESL, eq. 3.47).
    """
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    u, s, vt = np.linalg.svd((x - mean_x).astype(np.float64), full_matrices=False)
    projected = u.T @ (y - mean_y)
    fits = [
        Ridge(
            weights=vt.T @ ((s / (s**2 + alpha))[:, None] * projected),
            mean_x=mean_x,
            mean_y=mean_y,
            alpha=alpha,
        )
        for alpha in alphas
    ]
    return max(fits, key=lambda fit: float(cosine(fit.predict(x_validation), y_validation).mean()))


def cosine(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Row by row cosine similarity; a row of zeros has none with anything (0)."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    values: np.ndarray = (a * b).sum(axis=1) / np.maximum(norms, 1e-12)
    return values


def unit(a: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows scaled to length 1."""
    scaled: np.ndarray = a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-12)
    return scaled
