"""Intervals cover what they say, paired differences cancel what is shared."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluate.statistics import derangement, mean, paired_difference, standard_errors_below


def test_interval_covers_the_true_mean_about_95_times_in_100() -> None:
    generator = np.random.default_rng(0)
    trials = [mean(generator.exponential(size=60), seed=i, resamples=500) for i in range(300)]
    covered = np.mean([f.low <= 1.0 <= f.high for f in trials])
    assert 0.90 <= covered <= 0.98


def test_standard_error_is_the_textbook_one() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    figure = mean(values, seed=0)
    assert figure.value == 4.0
    assert figure.standard_error == pytest.approx(values.std(ddof=1) / 2)
    assert figure.n == 4


def test_paired_difference_is_narrower_than_the_spread_of_its_parts() -> None:
    generator = np.random.default_rng(1)
    shared = generator.normal(scale=10, size=200)
    a, b = shared + 1 + generator.normal(scale=0.1, size=200), shared
    difference = paired_difference(a, b, seed=0)
    assert difference.low > 0.97 and difference.high < 1.03
    assert mean(a, seed=0).standard_error > 20 * difference.standard_error


def test_standard_errors_below_counts_in_paired_standard_errors() -> None:
    ours, baseline = np.array([0.0, 0.0, 0.0, 0.0]), np.array([1.0, 2.0, 3.0, 2.0])
    expected = 2.0 / (baseline.std(ddof=1) / 2)
    assert standard_errors_below(ours, baseline) == pytest.approx(expected)
    assert standard_errors_below(baseline, ours) == pytest.approx(-expected)
    assert standard_errors_below(ours, ours) == 0.0


@pytest.mark.parametrize("n", [2, 3, 50])
def test_derangement_moves_everything(n: int) -> None:
    for seed in range(20):
        order = derangement(n, seed)
        assert sorted(order) == list(range(n))
        assert (order != np.arange(n)).all()


def test_no_figure_of_nothing() -> None:
    with pytest.raises(ValueError, match="finite"):
        mean(np.array([]), seed=0)
    with pytest.raises(ValueError, match="finite"):
        mean(np.array([1.0, np.nan]), seed=0)
    with pytest.raises(ValueError, match="at least 2"):
        derangement(1, 0)
