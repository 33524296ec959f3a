"""Analytic-DPM on a Gaussian, where every reverse step is Gaussian and its variance has a closed form."""

import pytest
import torch

from models.diffusion.analytic import noise_power, with_analytic_variance
from models.diffusion.noise import SampleNoise
from models.diffusion.process import Diffusion
from models.diffusion.samplers import ddpm
from models.diffusion.schedule import cosine_betas
from tests.models.diffusion.test_samplers import DIFFUSION, MEAN, STD, perfect


def closed_form_power(process: Diffusion) -> torch.Tensor:
    """E[epsilon(x_t)^2] of the perfect denoiser of N(MEAN, STD^2)."""
    abar = process.alphas_cumprod
    return (1 - abar) / (abar * STD**2 + 1 - abar)


def test_the_estimate_is_the_closed_form() -> None:
    process = DIFFUSION.spaced(8)
    x0 = MEAN + STD * SampleNoise(seed=5, count=256).draw((3, 8, 8))
    parts = [(x0[:100], perfect), (x0[100:], perfect)]
    power = noise_power(process, parts, seed=0)
    torch.testing.assert_close(power, closed_form_power(process), rtol=0.02, atol=0)
    torch.testing.assert_close(power, noise_power(process, [(x0, perfect)], seed=0), rtol=1e-6, atol=0)


def test_variances_are_those_of_the_true_reverse_steps() -> None:
    process = with_analytic_variance(DIFFUSION.spaced(8), closed_form_power(DIFFUSION.spaced(8)))
    abar, abar_prev = process.alphas_cumprod, process.alphas_cumprod_prev
    # Var[x_s | x_t] of two jointly Gaussian variables, from their covariance.
    before, now = abar_prev * STD**2 + 1 - abar_prev, abar * STD**2 + 1 - abar
    covariance = (abar / abar_prev).sqrt() * before
    expected = before - covariance**2 / now
    t = torch.arange(8)
    x = torch.zeros(8, 1, 1, 1)
    log_variance = process.predict(x, x, t, clip_x0=False).log_variance.flatten()
    torch.testing.assert_close(log_variance.exp()[1:], expected[1:].float(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("steps", [4, 16])
def test_few_steps_already_have_the_right_spread(steps: int) -> None:
    """With the small variance the spread of four steps is far too narrow."""
    process, noise = DIFFUSION.spaced(steps), SampleNoise(seed=0, count=64)
    x_T = noise.draw((3, 8, 8))
    analytic = with_analytic_variance(process, closed_form_power(process))
    x = ddpm(analytic, perfect, x_T, noise=noise, clip_x0=False)
    small = ddpm(process, perfect, x_T, noise=SampleNoise(seed=1, count=64), clip_x0=False)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.006)
    assert abs(x.std().item() - STD) < 0.2 * abs(small.std().item() - STD)


def test_what_does_not_go_together_is_refused() -> None:
    learned = Diffusion(cosine_betas(8), prediction="epsilon", variance="learned_range")
    with pytest.raises(ValueError, match="learned its variance"):
        learned.with_variance(torch.ones(8, dtype=torch.float64))
    process = DIFFUSION.spaced(8)
    given = with_analytic_variance(process, closed_form_power(process))
    with pytest.raises(ValueError, match="respace first"):
        given.spaced(4)
    with pytest.raises(ValueError, match="at least one sample"):
        noise_power(process, [], seed=0)
