"""Thresholds for a target recall: the promise holds, and what few labels cannot carry is not said."""

from __future__ import annotations

import numpy as np
import pytest

from filters.calibration import (
    NotEnoughLabels,
    auc,
    calibrate,
    flagged,
    hits_needed,
    positives_needed,
    rates_at,
)
from filters.intervals import clopper_pearson


@pytest.mark.parametrize("target", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_labels_needed_are_the_fewest_that_carry_the_target(target: float) -> None:
    n = positives_needed(target)
    assert clopper_pearson(n, n).low >= target
    assert clopper_pearson(n - 1, n - 1).low < target


def test_published_sample_sizes() -> None:
    """Wilks' tables for one-sided 95 % (level .9 two-sided): 59 for 95 %, 29 for 90 %."""
    assert positives_needed(0.95, level=0.9) == 59
    assert positives_needed(0.9, level=0.9) == 29


@pytest.mark.parametrize("n", [36, 72, 200])
def test_hits_needed_is_the_smallest_that_reaches_the_target(n: int) -> None:
    k = hits_needed(n, 0.9)
    assert clopper_pearson(k, n).low >= 0.9 > clopper_pearson(k - 1, n).low


def test_too_few_labels_claim_nothing_and_say_how_many_would_do() -> None:
    scores, positive = np.linspace(0, 1, 60, dtype=np.float32), np.ones(60, bool)
    with pytest.raises(NotEnoughLabels, match=r"60 .* at most 0.940 .* at least 12 more, 72 in all"):
        calibrate(scores, positive, 0.95)
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibrate(scores, positive, 1.0)


def test_the_chosen_threshold_keeps_its_promise_on_samples_never_seen() -> None:
    """Over many draws of labels the recall is below the target no more often than the interval allows."""
    random, target, draws, below = np.random.default_rng(0), 0.9, 2000, 0
    for _ in range(draws):
        scores = random.random(100, dtype=np.float32)  # the true recall of a threshold t is 1 - t
        result = calibrate(scores, np.ones(100, bool), target)
        below += 1 - result.threshold < target
    # One side of a 95 % interval: 2.5 %; three standard deviations of 2,000 draws are 1 %.
    assert below / draws <= 0.025 + 3 * (0.025 * 0.975 / draws) ** 0.5
    assert below > 0  # not by being timid


@pytest.mark.parametrize("side", ["above", "below"])
def test_the_k_th_positive_is_flagged_and_the_next_is_not(side: str) -> None:
    sign = 1 if side == "above" else -1
    scores = (sign * np.arange(100)).astype(np.float32)
    positive = np.ones(100, bool)
    result = calibrate(scores, positive, 0.9, side=side)  # type: ignore[arg-type]
    caught = flagged(scores, result.threshold, result.side)
    assert caught.sum() == hits_needed(100, 0.9) == result.rates.recall.k
    assert caught[100 - caught.sum() :].all()


def test_ties_are_flagged_together() -> None:
    scores = np.array([0.0] * 10 + [0.5] * 90, np.float32)
    result = calibrate(scores, np.ones(100, bool), 0.5)
    assert result.rates.recall.k == 90


def test_rates_count_what_they_say() -> None:
    scores = np.array([0.9, 0.8, 0.4, 0.7, 0.1, 0.2], np.float32)
    positive = np.array([True, True, True, False, False, False])
    rates = rates_at(scores, positive, 0.5)
    assert (rates.precision.k, rates.precision.n) == (2, 3)
    assert (rates.recall.k, rates.recall.n) == (2, 3)
    assert (rates.false_negative_rate.k, rates.false_negative_rate.n) == (1, 3)
    assert (rates.false_positive_rate.k, rates.false_positive_rate.n) == (1, 3)
    nothing = rates_at(scores, positive, 2.0).to_dict()
    assert nothing["precision"]["share"] is None and nothing["precision"]["wilson"] == [0.0, 1.0]


def test_auc_against_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(1)
    positive = random.random(300) < 0.3
    scores = np.round(random.normal(size=300) + positive, 1)  # rounded: with ties
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
