"""Samplers on a distribution whose perfect denoiser has a closed form: N(MEAN, STD^2) in each coordinate."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from models.diffusion.noise import SampleNoise
from models.diffusion.process import Diffusion
from models.diffusion.samplers import Denoiser, ddim, ddim_invert, ddpm, dpm_solver_pp_2m, heun
from models.diffusion.schedule import cosine_betas

MEAN, STD = 0.3, 0.2
DIFFUSION = Diffusion(cosine_betas(1000), prediction="epsilon", variance="fixed_small")


def perfect(x_t: Tensor, t: Tensor) -> Tensor:
    """E[noise | x_t], with the *original* timesteps: a sampler that passed its own would go astray."""
    abar = DIFFUSION.alphas_cumprod[t].to(x_t).reshape(-1, 1, 1, 1)
    variance = abar * STD**2 + 1 - abar
    return (1 - abar).sqrt() * (x_t - abar.sqrt() * MEAN) / variance


def run_ddpm(steps: int | str, x_T: Tensor, noise: SampleNoise, denoise: Denoiser = perfect) -> Tensor:
    return ddpm(DIFFUSION.spaced(steps), denoise, x_T, noise=noise, clip_x0=False)


def run_ddim(
    steps: int | str, x_T: Tensor, noise: SampleNoise, denoise: Denoiser = perfect, eta: float = 0.0
) -> Tensor:
    return ddim(DIFFUSION.spaced(steps), denoise, x_T, noise=noise, eta=eta, clip_x0=False)


def run_dpm(steps: int | str, x_T: Tensor, _: SampleNoise, denoise: Denoiser = perfect) -> Tensor:
    return dpm_solver_pp_2m(DIFFUSION.spaced(steps), denoise, x_T, clip_x0=False)


def run_heun(steps: int | str, x_T: Tensor, _: SampleNoise, denoise: Denoiser = perfect) -> Tensor:
    return heun(DIFFUSION.spaced(steps), denoise, x_T, clip_x0=False)


SAMPLERS: dict[str, tuple[Callable[..., Tensor], int | str]] = {
    "ddpm": (run_ddpm, 250),
    "ddim": (run_ddim, 100),
    "ddim sections": (run_ddim, "40,40,20,10,10"),
    "ddim eta 1": (partial(run_ddim, eta=1.0), 250),
    "dpm++ 2m": (run_dpm, 40),
    "heun": (run_heun, 60),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_perfect_denoiser_gives_the_right_mean_and_deviation(name: str) -> None:
    sampler, steps = SAMPLERS[name]
    noise = SampleNoise(seed=0, count=64)
    x = sampler(steps, noise.draw((3, 8, 8)), noise)
    # 12,288 numbers: standard errors of 0.0018 and 0.0013; the rest is discretisation.
    assert x.mean().item() == pytest.approx(MEAN, abs=0.006)
    assert x.std().item() == pytest.approx(STD, rel=0.05)


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_a_guide_gives_the_posterior(name: str) -> None:
    """Of an observation y of x_0 with noise of deviation R: its exact gradient turns the prior into the
    posterior, a Gaussian whose mean and deviation have a closed form."""
    y, r = 0.9, 0.15

    def guide(x_t: Tensor, t: Tensor) -> Tensor:
        abar = DIFFUSION.alphas_cumprod[t].to(x_t).reshape(-1, 1, 1, 1)
        gain = abar.sqrt() * STD**2 / (abar * STD**2 + 1 - abar)
        mean = MEAN + gain * (x_t - abar.sqrt() * MEAN)
        variance = STD**2 * (1 - gain * abar.sqrt())
        return gain * (y - mean) / (variance + r**2)

    precision = 1 / STD**2 + 1 / r**2
    noise = SampleNoise(seed=0, count=64)
    sampler = ddpm if name == "ddpm" else ddim
    # The shift of the mean is of first order in the step's length: DDPM takes every step.
    process = DIFFUSION.spaced(1000 if name == "ddpm" else 250)
    x = sampler(process, perfect, noise.draw((3, 8, 8)), noise=noise, clip_x0=False, guide=guide)
    assert x.mean().item() == pytest.approx((MEAN / STD**2 + y / r**2) / precision, abs=0.01)
    assert x.std().item() == pytest.approx(precision**-0.5, rel=0.06)


def test_second_order_solvers_are_of_higher_order_than_ddim() -> None:
    """Twice the steps halve the error of DDIM on their common path, and quarter that of the others."""
    x_T = SampleNoise(seed=1, count=4).draw((3, 8, 8))
    noise = SampleNoise(seed=0, count=4)
    end = run_ddim(1000, x_T, noise)
    errors = {
        (run, steps): float((run(steps, x_T, noise) - end).abs().mean())
        for run in (run_ddim, run_dpm, run_heun)
        for steps in (20, 40)
    }
    assert errors[run_ddim, 40] > 0.4 * errors[run_ddim, 20]
    # Heun's first step is of first order, so that it does not quite reach a quarter.
    for run, share in ((run_dpm, 0.25), (run_heun, 0.4)):
        assert errors[run, 20] < errors[run_ddim, 20]
        assert errors[run, 40] < share * errors[run, 20]


def test_ddim_comes_back_to_what_it_was_inverted_from() -> None:
    """The round trip's error falls with the steps, in proportion."""
    x_0 = MEAN + STD * SampleNoise(seed=3, count=4).draw((3, 8, 8))
    errors = []
    for steps in (50, 500):
        process = DIFFUSION.spaced(steps)
        x_T = ddim_invert(process, perfect, x_0)
        assert x_T.std().item() == pytest.approx(1, rel=0.1)
        errors.append(float((ddim(process, perfect, x_T, clip_x0=False) - x_0).abs().mean()))
    assert errors[1] < 0.15 * errors[0] and errors[1] < 0.02 * STD


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("cut", [1, 3])
def test_samples_do_not_depend_on_the_batch_split(name: str, cut: int) -> None:
    sampler, steps = SAMPLERS[name][0], 10
    whole = SampleNoise(seed=7, count=5)
    together = sampler(steps, whole.draw((3, 4, 4)), whole)
    parts = []
    for first, count in ((0, cut), (cut, 5 - cut)):
        noise = SampleNoise(seed=7, count=count, first=first)
        parts.append(sampler(steps, noise.draw((3, 4, 4)), noise))
    assert torch.equal(torch.cat(parts), together)


def test_streams_of_seeds_stages_and_samples_are_unrelated() -> None:
    draws = [
        SampleNoise(seed, 1, first=first, stream=stream).draw((4096,))
        for seed in (0, 1)
        for first in (0, 1)
        for stream in (0, 1)
    ]
    correlation = torch.corrcoef(torch.cat(draws)) - torch.eye(8)
    assert float(correlation.abs().max()) < 5 / 4096**0.5


def test_the_callback_sees_every_step_and_the_last_estimate_is_the_sample() -> None:
    seen: list[tuple[int, int]] = []
    estimates: list[Tensor] = []

    def callback(step: int, total: int, x0: Tensor) -> None:
        seen.append((step, total))
        estimates.append(x0)

    noise = SampleNoise(seed=0, count=1)
    x = ddim(DIFFUSION.spaced(5), perfect, noise.draw((3, 4, 4)), callback=callback)
    assert seen == [(i, 5) for i in range(1, 6)]
    torch.testing.assert_close(estimates[-1], x)


def test_random_ddim_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="draws noise at every step"):
        ddim(DIFFUSION.spaced(5), perfect, torch.zeros(1, 3, 4, 4), eta=0.5)


def test_no_sample_is_no_error() -> None:
    noise = SampleNoise(seed=0, count=0)
    assert run_ddpm(3, noise.draw((3, 4, 4)), noise).shape == (0, 3, 4, 4)
