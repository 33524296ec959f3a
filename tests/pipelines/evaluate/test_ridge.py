"""Ridge regression against its normal equations."""

from __future__ import annotations

import numpy as np

from pipelines.evaluate.ridge import cosine, fit_ridge


def test_solves_the_normal_equations() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 6)), generator.normal(size=(40, 3))
    fit = fit_ridge(x, y, x, y, alphas=(0.7,))
    centred_x, centred_y = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.solve(centred_x.T @ centred_x + 0.7 * np.eye(6), centred_x.T @ centred_y)
    np.testing.assert_allclose(fit.weights, expected, atol=1e-10)
    np.testing.assert_allclose(fit.predict(x), centred_x @ expected + y.mean(0), atol=1e-10)


def test_fewer_samples_than_dimensions_is_no_problem() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(5, 20)), generator.normal(size=(5, 4))
    assert np.isfinite(fit_ridge(x, y, x, y).predict(x)).all()


def test_validation_chooses_the_penalty() -> None:
    """Where text says nothing of the image, validation prefers the heaviest penalty: the mean."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(30, 20)), generator.normal(size=(30, 8)) + 2
    held_x, held_y = generator.normal(size=(200, 20)), generator.normal(size=(200, 8)) + 2
    assert fit_ridge(x, y, held_x, held_y).alpha >= 100
    weights = generator.normal(size=(20, 8))
    assert fit_ridge(x, x @ weights, held_x, held_x @ weights).alpha <= 0.1


def test_cosine_of_rows() -> None:
    a = np.array([[1.0, 0.0], [2.0, 2.0], [0.0, 0.0]])
    b = np.array([[0.0, 3.0], [1.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(cosine(a, b), [0.0, 1.0, 0.0], atol=1e-12)
