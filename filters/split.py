"""Train, validation and test by a stable hash of the concept, never by row."""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

SPLITS = ("train", "validation", "test")


def assign_split(ids: Sequence[str], fractions: Mapping[str, float], seed: int) -> np.ndarray:
    """Split name per row, shape (n,) of str.

    ids: concept or duplicate-cluster id of each row; rows of one id share a split.  Because the place comes
    from sha256(seed, id) alone, rows added later move none of the earlier ones, and every stage, process and
    machine agrees.  The realised fractions vary by about sqrt(f (1 - f) / number of ids).

    Raises ValueError unless ``fractions`` names exactly the three splits, each >= 0, summing to 1.
    """
    if sorted(fractions) != sorted(SPLITS):
        raise ValueError(
            f"fractions: expected the keys {', '.join(SPLITS)}, got {', '.join(sorted(fractions))}"
        )
    shares = [fractions[name] for name in SPLITS]
    if min(shares) < 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-9):
        raise ValueError(f"fractions: expected numbers >= 0 that sum to 1, got {dict(fractions)}")
    uniques, inverse = np.unique(np.asarray(ids, dtype=str), return_inverse=True)
    places = np.array([_uniform(str(id_), seed) for id_ in uniques])
    bounds = np.cumsum(shares)[:-1]
    return np.array(SPLITS)[np.searchsorted(bounds, places, side="right")][inverse]


def _uniform(id_: str, seed: int) -> float:
    """A number in [0, 1) that depends on seed and id alone."""
    digest = hashlib.sha256(f"{seed}\x00{id_}".encode()).digest()
    # 53 bits fill a double exactly: 64 would round some ids up to 1.0, which is in no split.
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
