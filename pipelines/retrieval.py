"""Recall of retrieval between captions and images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def recall_at(
    queries: Float[np.ndarray, "n d"],
    gallery: Float[np.ndarray, "n d"],
    ks: Sequence[int] = (1, 5, 10),
) -> dict[int, float]:
    """Share of queries i whose match (gallery row i) is among the k nearest by cosine; unit-norm rows.

    A tie counts against: with equal vectors the match is placed last, so a constant encoder scores 0.
    """
    similarity = queries @ gallery.T
    rank = (similarity >= similarity.diagonal()[:, None]).sum(axis=1) - 1
    return {k: float((rank < k).mean()) for k in ks}
