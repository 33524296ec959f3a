"""Shares of terms before and after: the figures against a count by hand, the interval against simulation."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from filters.terms import Terms
from pipelines.judge.bias import share_ratio, term_table

TERMS = Terms.model_validate(
    {"schema_version": 1, "groups": {"people": {"woman": ["woman"], "man": ["man"], "child": ["child"]}}}
)


def test_counts_by_hand() -> None:
    captions = pa.chunked_array([["a woman", "a woman", "a man", "a cat", "a man", None]])
    before = np.array([True, True, True, True, True, False])
    after = np.array([True, False, True, True, False, False])
    rows = term_table(captions, before, after, None, TERMS)
    assert [(row["term"], row["before"], row["after"]) for row in rows] == [("woman", 2, 1), ("man", 2, 1)]
    assert rows[0]["share_before"] == 0.4 and rows[0]["share_after"] == pytest.approx(1 / 3)
    assert rows[0]["ratio"] == pytest.approx(0.8333, abs=1e-4)
    low, high = rows[0]["ratio_95"]
    assert low < rows[0]["ratio"] < high and not rows[0]["shifted"]
    assert "share_weighted" not in rows[0]


def test_a_term_of_every_caption_is_not_shifted_even_if_none_is_kept() -> None:
    captions = pa.chunked_array([["a woman"]])
    (row,) = term_table(captions, np.ones(1, bool), np.zeros(1, bool), None, TERMS)
    assert row["ratio"] is None and row["ratio_95"] == [1, 1] and not row["shifted"]
    assert share_ratio(5, 0, 5, 0) == share_ratio(5, 3, 5, 3) == (1, 1)
    assert share_ratio(2, 0, 5, 0) == (0, 2.5)


def test_weights_show_in_what_training_sees() -> None:
    captions = pa.chunked_array([["a woman", "a woman", "a man", "a cat"]])
    every, kept = np.ones(4, bool), np.array([True, False, True, True])
    (woman, _) = term_table(captions, every, kept, np.array([2.0, 0.0, 1.0, 1.0]), TERMS)
    assert woman["share_weighted"] == 0.5 and woman["ratio_weighted"] == 1.0


def test_a_filter_that_takes_women_is_told_from_one_that_does_not() -> None:
    captions = pa.chunked_array([["a woman"] * 300 + ["a man"] * 300 + ["a cat"] * 400])
    every = np.ones(1000, bool)
    kept = np.r_[np.arange(300) % 2 == 0, np.ones(700, bool)]
    woman, man = term_table(captions, every, kept, None, TERMS)
    assert woman["shifted"] and woman["ratio_95"][1] < 0.7
    assert man["shifted"] and man["ratio"] > 1  # their share grew as the women's fell
    evenly = np.arange(1000) % 2 == 0
    assert not any(row["shifted"] for row in term_table(captions, every, evenly, None, TERMS))


def test_nothing_kept_and_nothing_there() -> None:
    captions, every = pa.chunked_array([["a woman", "a cat"]]), np.ones(2, bool)
    (row,) = term_table(captions, every, ~every, None, TERMS)
    assert row["ratio"] is None and row["share_after"] is None
    assert term_table(captions, ~every, ~every, None, TERMS) == []


def test_interval_covers_the_ratio_as_often_as_it_says() -> None:
    random, total, had, draws, inside = np.random.default_rng(0), 1000, 150, 3000, 0
    chances = 0.6, 0.8  # to be kept: with the term, without it
    truth = 0.6 / ((had * 0.6 + (total - had) * 0.8) / total)
    for _ in range(draws):
        has = int(random.binomial(had, chances[0]))
        kept = has + int(random.binomial(total - had, chances[1]))
        low, high = share_ratio(had, has, total, kept)
        inside += low <= truth <= high
    assert 0.93 <= inside / draws <= 0.97
