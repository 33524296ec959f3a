"""Interpolation, inversion and text differences on a tiny cascade."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cascade import UnCLIP
from models.manipulation import (
    interpolation_path,
    invert,
    reconstruct,
    slerp,
    text_diff_path,
)
from models.manipulator import Manipulator
from tests.models.tiny import UNCLIP, prompts, randomised, unit


def gentle() -> UnCLIP:
    """Random weights, but a small last layer: a wild field cannot be followed back in any number of steps."""
    model = randomised(UnCLIP(UNCLIP))
    with torch.no_grad():
        for parameter in model.decoder.unet.out[-1].parameters():
            parameter *= 0.02
    return model


GENTLE = gentle()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), fraction=st.floats(0, 1))
def test_slerp_keeps_the_norm_and_divides_the_angle(seed: int, fraction: float) -> None:
    a, b = unit(3, seed), unit(3, seed + 1)
    point = slerp(a, b, fraction)
    torch.testing.assert_close(point.norm(dim=1), torch.ones(3), rtol=0, atol=1e-4)
    whole = torch.acos((a * b).sum(dim=1))
    torch.testing.assert_close(
        torch.acos((a * point).sum(dim=1).clamp(-1, 1)), fraction * whole, rtol=0, atol=2e-3
    )


def test_slerp_ends_and_degenerate_cases() -> None:
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    with pytest.raises(ValueError, match="not opposite"):
        slerp(a, -a, 0.5)


def test_an_inverted_image_is_reconstructed() -> None:
    """Up to the inversion's own error, which falls with the steps."""
    images = torch.tanh(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    conditions = (unit(2), *prompts([4, 6]))
    errors = []
    for steps in (10, 100):
        x_T = invert(GENTLE, images, *conditions, steps=steps)
        errors.append(float((reconstruct(GENTLE, x_T, *conditions, steps=steps) - images).abs().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_paths() -> None:
    a, b, c = unit(1), unit(1, 1), unit(1, 2)
    path = interpolation_path(a, b, (0.0, 0.5, 1.0))
    assert path.shape == (3, 16)
    torch.testing.assert_close(path[[0, 2]], torch.cat([a, b]))
    moved = text_diff_path(a, b, c, (0.0, 0.25, 0.5))
    torch.testing.assert_close(moved[:1], a)
    towards = torch.nn.functional.normalize(b - c, dim=-1)
    cosines = (moved @ towards.T).flatten()
    assert cosines[0] < cosines[1] < cosines[2]
    with pytest.raises(ValueError, match="two texts that differ"):
        text_diff_path(a, b, b, (0.5,))


def test_numbers_that_are_not_finite_are_refused() -> None:
    images, conditions = torch.zeros(2, 3, 16, 16), (unit(2), *prompts([4, 6]))
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"finite images_m11, got NaN or infinity in rows \[1\]"):
        invert(GENTLE, images, *conditions, steps=2)
    with pytest.raises(ValueError, match="finite x_T"):
        reconstruct(GENTLE, images, *conditions, steps=2)


def test_settings_that_do_not_fit_the_upsamplers_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="1 upsamplers, settings for 0"):
        Manipulator(GENTLE, upsamplers=())
