"""Image quality measures against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluate.upsampling import from_u8, psnr_db, ssim
from pipelines.pictures import to_u8


def test_psnr_of_a_constant_error() -> None:
    a = np.full((2, 8, 8, 3), 100, np.uint8)
    b = a.copy()
    b[1] += 10
    assert psnr_db(a, b) == pytest.approx([10 * np.log10(255**2 / 0.25), 10 * np.log10(255**2 / 100)])


def test_ssim_equals_its_definition_window_by_window() -> None:
    generator = np.random.default_rng(0)
    a = generator.integers(0, 256, (1, 13, 12, 3)).astype(np.uint8)
    b = np.clip(a.astype(int) + generator.integers(-30, 30, a.shape), 0, 255).astype(np.uint8)
    place = np.arange(11) - 5
    weight = np.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for top, left, channel in np.ndindex(3, 2, 3):
        x, y = (i[0, top : top + 11, left : left + 11, channel].astype(float) for i in (a, b))
        mean_x, mean_y = (weight * x).sum(), (weight * y).sum()
        covariance = (weight * (x - mean_x) * (y - mean_y)).sum()
        variance_x, variance_y = (weight * (x - mean_x) ** 2).sum(), (weight * (y - mean_y) ** 2).sum()
        c1, c2 = 2.55**2, 7.65**2
        values.append(
            (2 * mean_x * mean_y + c1)
            * (2 * covariance + c2)
            / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
        )
    assert ssim(a, b) == pytest.approx([np.mean(values)], abs=1e-4)
    assert ssim(a, a) == pytest.approx([1.0])


def test_bytes_survive_the_trip() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(to_u8(from_u8(every).numpy()), every)
