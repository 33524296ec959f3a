"""Duplicates within clusters: all with one cluster, nearly all with several clusterings of many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from filters.semantic_duplicates import Vectors, brute_force_pairs, clustered_pairs, merged, recall

MIN_COSINE = 0.95


def planted(count: int, copies: int, seed: int = 0) -> list[np.ndarray]:
    """`count` rows of 32 dimensions in three shards; the last `copies` are the first ones with noise."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, 32)).astype(np.float32)
    rows[-copies:] = rows[:copies] + 0.05 * random.standard_normal((copies, 32))
    return np.split(rows.astype(np.float16), [count // 3, count // 2])


def test_one_cluster_misses_nothing_whatever_the_shards(tmp_path: Path) -> None:
    shards = planted(600, 40)
    pairs, cosines = clustered_pairs(Vectors.of(shards), MIN_COSINE, clusters=1, seed=0, folder=tmp_path)
    whole = np.concatenate(shards).astype(np.float32)
    unit = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    expected = np.argwhere(np.triu(unit @ unit.T > MIN_COSINE, k=1))
    assert pairs.tolist() == expected.tolist() and len(pairs) >= 40
    np.testing.assert_allclose(cosines, (unit @ unit.T)[pairs[:, 0], pairs[:, 1]], atol=1e-5)
    assert not list(tmp_path.iterdir()), "the scratch file is gone"


def test_five_clusterings_find_nearly_all_pairs(tmp_path: Path) -> None:
    shards = planted(6000, 600)
    parts = [
        clustered_pairs(Vectors.of(shards), MIN_COSINE, clusters=32, seed=s, folder=tmp_path)
        for s in range(5)
    ]
    true = brute_force_pairs(Vectors.of(shards), np.arange(0, 600, 2), MIN_COSINE)
    one, five = (recall(found, true)[0] / len(true) for found in (parts[0][0], merged(parts)[0]))
    assert len(true) >= 300
    assert one < five and five >= 0.97


def test_equal_seeds_give_equal_pairs(tmp_path: Path) -> None:
    shards = planted(2000, 100)
    first, again = (
        clustered_pairs(Vectors.of(shards), MIN_COSINE, clusters=8, seed=3, folder=tmp_path) for _ in range(2)
    )
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_row_without_direction_is_named(value: float, tmp_path: Path) -> None:
    shards = planted(90, 10)
    shards[1][3] = value
    with pytest.raises(ValueError, match="embedding of row 33 is zero or not finite"):
        clustered_pairs(Vectors.of(shards), MIN_COSINE, clusters=2, seed=0, folder=tmp_path)


def test_rows_that_take_no_part_are_not_counted(tmp_path: Path) -> None:
    shards = planted(90, 10)
    shards[1][3] = 0
    use = [np.ones(len(shard), bool) for shard in shards]
    use[1][3] = False
    vectors = Vectors.of(shards, use)
    assert len(vectors) == 89
    some = np.array([0, 28, 32, 33, 88])
    assert np.array_equal(vectors.only(some)[np.arange(5)], vectors[some])
    rest = np.delete(np.concatenate(shards), 33, axis=0)
    for settings in ({"clusters": 1, "seed": 0}, {"clusters": 4, "seed": 1}):
        got = clustered_pairs(vectors, MIN_COSINE, folder=tmp_path, **settings)
        expected = clustered_pairs(Vectors.of([rest]), MIN_COSINE, folder=tmp_path, **settings)
        assert np.array_equal(got[0], expected[0])


def test_no_rows_are_no_pairs(tmp_path: Path) -> None:
    pairs, _ = clustered_pairs(
        Vectors.of([np.zeros((0, 8), np.float16)]), 0.9, clusters=4, seed=0, folder=tmp_path
    )
    assert pairs.shape == (0, 2)
