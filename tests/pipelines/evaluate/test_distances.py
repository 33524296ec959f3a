"""Distances: about 0 for two samples of one distribution, equal to their definition, honest errors."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluate.distances import cmmd, kid


def repeated(shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard errors of 200 independent KIDs between normals `shift` apart."""
    generator = np.random.default_rng(0)
    figures = [
        kid(generator.normal(size=(40, 8)), generator.normal(size=(50, 8)) + shift) for _ in range(200)
    ]
    return np.array([f.value for f in figures]), np.array([f.standard_error for f in figures])


def test_two_samples_of_one_distribution_are_about_zero_apart() -> None:
    values, errors = repeated(shift=0.0)
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert values.std() < errors.mean() < 2 * values.std(), "cautious, not wild"


def test_the_error_of_a_real_distance_is_right() -> None:
    values, errors = repeated(shift=1.0)
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)


@pytest.mark.parametrize("distance", [kid, cmmd])
def test_farther_is_more(distance) -> None:  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(1)
    base = generator.normal(size=(60, 16)) + 1
    values = [distance(base, generator.normal(size=(60, 16)) + 1 + shift).value for shift in (0.0, 1.0, 3.0)]
    assert values[0] < values[1] < values[2]


def test_equals_the_definition_term_by_term() -> None:
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=(7, 5)), generator.normal(size=(9, 5)) * 1.2

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 5 + 1) ** 3)

    within_x = np.mean([kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    within_y = np.mean([kernel(y[i], y[j]) for i in range(9) for j in range(9) if i != j])
    across = np.mean([kernel(a, b) for a in x for b in y])
    assert kid(x, y).value == pytest.approx(within_x + within_y - 2 * across)


def test_jackknife_leaves_out_one_at_a_time() -> None:
    generator = np.random.default_rng(3)
    x, y = generator.normal(size=(6, 4)), generator.normal(size=(8, 4)) + 1
    without_x = np.array([kid(np.delete(x, i, 0), y).value for i in range(6)])
    without_y = np.array([kid(x, np.delete(y, i, 0)).value for i in range(8)])
    expected = np.sqrt(5 * without_x.var() + 7 * without_y.var())
    assert kid(x, y).standard_error == pytest.approx(expected)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        kid(np.zeros((2, 4)), np.zeros((9, 4)))
