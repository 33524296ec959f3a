"""Which samples to label next: orders of all samples by how much a label of each would tell.

Every function returns row numbers, most telling first, ties by row: the same input gives the same queue.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float, Int

_BLOCK = 65_536
"""Rows compared with the misses at once."""


def most_uncertain(scores: Float[np.ndarray, " n"], threshold: float) -> Int[np.ndarray, " n"]:
    """Nearest to the threshold first (uncertainty sampling, Lewis and Gale 1994), whichever side."""
    return np.argsort(np.abs(scores.astype(np.float64) - threshold), kind="stable")


def disagreement(columns: Sequence[Float[np.ndarray, " n"]]) -> Int[np.ndarray, " n"]:
    """Rows first that scorers place most differently among all rows (query by committee).

    Expects columns turned so that higher is worse.  Units differ between scorers, so ranks are compared, not
    scores; rows that a scorer does not tell apart share their mean rank.  Raises ValueError for fewer than
    two columns.
    """
    from scipy.stats import rankdata

    if len(columns) < 2:
        raise ValueError(f"expected two scores or more that can disagree, got {len(columns)}")
    places = np.stack([rankdata(column) for column in columns])
    return np.argsort(-np.ptp(places, axis=0), kind="stable")


def near_misses(embeddings: Float[np.ndarray, "n d"], misses: Int[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """Rows most alike, by cosine, to any of the missed positives `misses`; these come first, as most alike.

    Raises ValueError without a miss.
    """
    if not len(misses):
        raise ValueError("no labelled positive is missed, so nothing lies near one")
    centres = _unit(embeddings[misses])
    nearest = [
        (_unit(embeddings[start : start + _BLOCK]) @ centres.T).max(axis=1)
        for start in range(0, len(embeddings), _BLOCK)
    ]
    return np.argsort(-np.concatenate(nearest), kind="stable")


def at_random(n: int, seed: int = 0) -> Int[np.ndarray, " n"]:
    """All rows shuffled: only such labels give rates that hold for the whole corpus."""
    return np.random.default_rng(seed).permutation(n)


def queue(
    orders: Sequence[Int[np.ndarray, " n"]],
    groups: Sequence[str],
    *,
    size: int,
    done: Collection[str] = (),
) -> list[tuple[int, int]]:
    """The first `size` rows, one of each group, taken from the orders in turn; with each the number of its
    order.

    groups: rows of one group show the same thing, so one label does for all; `done` groups are left out.
    """
    taken, chosen = set(done), list[tuple[int, int]]()
    for place in itertools.zip_longest(*(order.tolist() for order in orders)):
        for number, row in enumerate(place):
            if len(chosen) < size and row is not None and groups[row] not in taken:
                taken.add(groups[row])
                chosen.append((row, number))
        if len(chosen) == size:
            break
    return chosen


def _unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    values = rows.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
