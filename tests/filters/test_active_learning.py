"""Queues: the telling samples first, one of each cluster, always the same."""

from __future__ import annotations

import numpy as np
import pytest

from filters.active_learning import at_random, disagreement, most_uncertain, near_misses, queue


def test_uncertain_is_near_the_threshold_on_either_side() -> None:
    scores = np.array([0.1, 0.55, 0.45, 0.9, 0.5], np.float32)
    assert most_uncertain(scores, 0.5).tolist()[0] == 4
    assert set(most_uncertain(scores, 0.5).tolist()[1:3]) == {1, 2}
    assert most_uncertain(np.full(3, 0.2), 0.5).tolist() == [0, 1, 2]  # ties by row


def test_disagreement_compares_ranks_not_units() -> None:
    first = np.array([0.1, 0.2, 0.3, 0.4, 0.9])
    second = np.array([100.0, 200.0, 300.0, 400.0, 5.0])  # other units; the last row is worst and best
    assert disagreement([first, second]).tolist()[0] == 4
    assert disagreement([first, 1000 * first]).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="two scores or more"):
        disagreement([first])


def test_near_misses_go_by_direction() -> None:
    embeddings = np.array([[1, 0], [0, 1], [10, 1], [-1, 0], [0.9, 0.8]], np.float32)
    assert near_misses(embeddings, np.array([0])).tolist() == [0, 2, 4, 1, 3]
    assert set(near_misses(embeddings, np.array([0, 3])).tolist()[:2]) == {0, 3}
    with pytest.raises(ValueError, match="no labelled positive is missed"):
        near_misses(embeddings, np.array([], int))


def test_one_of_each_cluster_and_nothing_twice() -> None:
    orders = [np.array([0, 1, 2, 3]), np.array([3, 2, 1, 0])]
    assert queue(orders, ["a", "a", "b", "c"], size=10) == [(0, 0), (3, 1), (2, 1)]
    assert queue(orders, ["a", "a", "b", "c"], size=2) == [(0, 0), (3, 1)]
    assert queue(orders, ["a", "a", "b", "c"], size=10, done={"a", "b"}) == [(3, 1)]
    assert queue([np.array([], int)], [], size=3) == []


def test_random_is_a_shuffle_that_repeats() -> None:
    assert sorted(at_random(50).tolist()) == list(range(50))
    assert at_random(50, seed=1).tolist() == at_random(50, seed=1).tolist() != at_random(50).tolist()
