"""Density weights: they restore a shifted distribution, and do nothing where nothing was shifted."""

from __future__ import annotations

import numpy as np
import pytest

from filters.reweighting import clipped_weights, density_ratio, effective_samples


def two_kinds(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of two kinds of samples, and which are of the second, rarer kind."""
    random = np.random.default_rng(seed)
    rare = random.random(n) < 0.3
    return random.normal(size=(n, 16)) + 1.5 * rare[:, None], rare


def test_weights_restore_the_share_that_filtering_lowered() -> None:
    embeddings, rare = two_kinds(4000)
    random = np.random.default_rng(1)
    kept = random.random(4000) < np.where(rare, 0.4, 0.9)  # the filter takes more of the rare kind
    found = density_ratio(embeddings, kept)
    weights = clipped_weights(found.ratio[kept], clip=5)
    before, after = rare.mean(), rare[kept].mean()
    assert after < 0.2 < before
    # Not all of it: the logarithm of the true ratio is a step, the classifier's is a straight line.
    weighted = np.average(rare[kept], weights=weights)
    assert after + 0.75 * (before - after) < weighted < before + 0.02
    assert weights.mean() == pytest.approx(1)
    assert found.auc > 0.6
    assert effective_samples(weights) < kept.sum()


def test_a_filter_that_takes_at_random_is_left_alone() -> None:
    embeddings, _ = two_kinds(4000)
    kept = np.random.default_rng(2).random(4000) < 0.8
    found = density_ratio(embeddings, kept)
    assert found.auc == pytest.approx(0.5, abs=0.04)
    weights = clipped_weights(found.ratio[kept], clip=5)
    assert np.abs(weights - 1).max() < 0.25


def test_no_row_is_weighed_by_a_classifier_that_knows_it() -> None:
    """With more dimensions than rows everything can be learned by heart, and must not show as an AUC."""
    random = np.random.default_rng(3)
    embeddings, kept = random.normal(size=(300, 600)), random.random(300) < 0.7
    assert density_ratio(embeddings, kept).auc == pytest.approx(0.5, abs=0.1)


def test_where_nothing_can_be_learned_all_weights_are_one() -> None:
    embeddings = np.ones((20, 4))
    for kept in (np.ones(20, bool), np.zeros(20, bool)):
        assert (density_ratio(embeddings, kept).ratio == 1).all()
    assert (density_ratio(embeddings[:4], np.array([True, False, True, True])).ratio == 1).all()
    assert len(clipped_weights(np.zeros(0), clip=2)) == 0


def test_clipping_bounds_what_a_sample_can_weigh() -> None:
    weights = clipped_weights(np.array([0.001, 1.0, 1.0, 1000.0]), clip=4)
    assert weights.max() / weights.min() == pytest.approx(16)
    assert weights.mean() == pytest.approx(1)
    with pytest.raises(ValueError, match="above 1"):
        clipped_weights(np.ones(2), clip=1)


def test_the_same_seed_gives_the_same_weights() -> None:
    embeddings, rare = two_kinds(500)
    kept = ~rare | (np.arange(500) % 2 == 0)
    first, second = (density_ratio(embeddings, kept, seed=4, fit_rows=200).ratio for _ in range(2))
    assert (first == second).all()
