"""Splits by concept, and intervals against published values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from filters.intervals import auc_interval, clopper_pearson, proportion_ratio, wilson
from filters.split import SPLITS, assign_split

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def test_split_goes_by_concept_and_is_stable_under_growth() -> None:
    ids = [f"concept {i}" for i in range(2000)]
    split = assign_split(ids, FRACTIONS, seed=1)
    longer = assign_split(["a newcomer", *reversed(ids), *ids], FRACTIONS, seed=1)
    assert longer[-2000:].tolist() == split.tolist()
    assert longer[1:2001][::-1].tolist() == split.tolist()
    for name in SPLITS:
        assert (split == name).mean() == pytest.approx(FRACTIONS[name], abs=0.03)
    assert (assign_split(ids, FRACTIONS, seed=2) != split).any()


def test_split_of_a_known_id_never_changes() -> None:
    """A changed hash would move test samples into training of an existing model."""
    split = assign_split(
        ["red heart", "grinning face", "pig"], {"train": 0.4, "validation": 0.3, "test": 0.3}, seed=0
    )
    assert split.tolist() == ["train", "validation", "validation"]


def test_empty_shares_and_bad_fractions() -> None:
    only_test = assign_split(["a", "b"], {"train": 0.0, "validation": 0.0, "test": 1.0}, seed=0)
    assert only_test.tolist() == ["test", "test"]
    assert assign_split([], FRACTIONS, seed=0).tolist() == []
    with pytest.raises(ValueError, match="sum to 1"):
        assign_split(["a"], {"train": 0.5, "validation": 0.1, "test": 0.1}, seed=0)
    with pytest.raises(ValueError, match="expected the keys train, validation, test, got train"):
        assign_split(["a"], {"train": 1.0}, seed=0)


def test_intervals_against_published_values() -> None:
    # Newcombe 1998 (Statistics in Medicine 17:857), table I: 81 of 263 and 15 of 148, 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert clopper_pearson(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert clopper_pearson(15, 148) == pytest.approx((0.0578, 0.1617), abs=5e-5)
    assert clopper_pearson(0, 20) == pytest.approx((0.0, 0.1684), abs=5e-5)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
def test_exact_interval_never_covers_less_than_it_says(p: float) -> None:
    n = 30
    covered = [clopper_pearson(k, n).low <= p <= clopper_pearson(k, n).high for k in range(n + 1)]
    assert binom.pmf(np.arange(n + 1), n, p)[covered].sum() >= 0.95


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_nothing_tried_tells_nothing_and_nonsense_is_refused(interval: object) -> None:
    assert callable(interval)
    assert interval(0, 0) == (0.0, 1.0)
    assert interval(5, 5).high == 1.0
    with pytest.raises(ValueError, match="got 3 of 2"):
        interval(3, 2)
    with pytest.raises(ValueError, match="level"):
        interval(1, 2, level=1.5)


@pytest.mark.parametrize(
    ("p1", "p2", "n1", "n2"), [(0.9, 0.95, 40, 2000), (0.5, 0.6, 25, 100), (0.1, 0.3, 60, 60)]
)
def test_ratio_of_two_proportions_is_covered_as_often_as_said(p1: float, p2: float, n1: int, n2: int) -> None:
    """Exact coverage: every outcome weighed with its probability."""
    first, second = binom.pmf(np.arange(n1 + 1), n1, p1), binom.pmf(np.arange(n2 + 1), n2, p2)
    coverage = 0.0
    for k1 in np.flatnonzero(first > 1e-6).tolist():
        for k2 in np.flatnonzero(second > 1e-6).tolist():
            low, high = proportion_ratio((k1, n1), (k2, n2))
            coverage += first[k1] * second[k2] * (low <= p1 / p2 <= high)
    assert 0.93 <= coverage <= 0.985


def test_ratio_at_the_ends() -> None:
    low, high = proportion_ratio((3, 3), (500, 500))
    assert low < 0.6 and high >= 1  # three of three are no proof
    assert proportion_ratio((0, 10), (50, 100)).low == 0.0
    assert 0 < proportion_ratio((0, 10), (50, 100)).high < 1.2
    assert proportion_ratio((5, 10), (0, 100)).high == float("inf")
    low, high = proportion_ratio((0, 0), (50, 100))
    assert low == 0.0 and high > 1


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_interval_of_an_auc_covers_it_as_often_as_said(shift: float) -> None:
    from scipy.stats import norm

    from filters.calibration import auc

    random, truth, inside, draws = np.random.default_rng(0), norm.cdf(shift / 2**0.5), 0, 1000
    positive = np.arange(60) < 20
    for _ in range(draws):
        low, high = auc_interval(auc(random.normal(size=60) + shift * positive, positive), 20, 40)
        inside += low <= truth <= high
    assert 0.925 <= inside / draws <= 0.985


def test_interval_of_a_perfect_auc_keeps_a_width() -> None:
    low, high = auc_interval(1.0, 10, 10)
    assert 0.7 < low < 0.9 and high == 1.0
    assert auc_interval(0.0, 10, 10) == pytest.approx((0.0, 1 - low))
    assert auc_interval(1.0, 1000, 1000).low > 0.99
    with pytest.raises(ValueError, match="both sides"):
        auc_interval(0.5, 0, 10)
