"""Our process and samplers against diffusers' schedulers, step by step with the same network and noise.

Their schedules are given our float64 tables: in float32, as they come, the last alphas are off by 6e-5 of
themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UnCLIPScheduler
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm, scheduling_unclip
from torch import Tensor

from models.diffusion.noise import SampleNoise
from models.diffusion.process import Diffusion, PredictionType, VarianceType
from models.diffusion.samplers import ddim, ddpm, dpm_solver_pp_2m
from models.diffusion.schedule import cosine_betas
from tests.parity.test_diffusion import varied

PREDICTION = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
LARGEST = 1e-5
X_T = SampleNoise(1, 2).draw((3, 8, 8))


def make(cls: Any, prediction: str, variance: str | None = None, *, steps: int = 1000, **options: Any) -> Any:
    """A scheduler over the cosine schedule in float64."""
    if variance is not None:
        options["variance_type"] = variance
    scheduler = cls(
        num_train_timesteps=steps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=PREDICTION[prediction],
        **options,
    )
    scheduler.betas = cosine_betas(steps)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    return scheduler


def ours(prediction: PredictionType, variance: VarianceType, steps: int = 1000) -> Diffusion:
    return Diffusion(cosine_betas(steps), prediction=prediction, variance=variance)


def chain(scheduler: Any, network: Callable[[Tensor, Tensor], Tensor], **step: Any) -> Tensor:
    x, times = X_T, scheduler.timesteps
    for i, t in enumerate(times):
        if isinstance(scheduler, UnCLIPScheduler):
            step["prev_timestep"] = times[i + 1] if i + 1 < len(times) else None
        x = scheduler.step(network(x, t.expand(len(x))), t, x, **step).prev_sample
    return x


def network_of(variance: str) -> Callable[[Tensor, Tensor], Tensor]:
    return varied(6 if variance == "learned_range" else 3)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("prediction", PREDICTION)
def test_ddpm_is_diffusers(monkeypatch: pytest.MonkeyPatch, prediction: Any, variance: Any) -> None:
    """Over every step of a process of 40: theirs takes a learned variance's upper bound from the whole
    process even where steps are skipped."""
    scheduler = make(DDPMScheduler, prediction, variance, steps=40)
    scheduler.set_timesteps(40)
    noise = SampleNoise(0, 2)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda shape, **_: noise.draw(tuple(shape)[1:]))
    got = ddpm(ours(prediction, variance, 40), network_of(variance), X_T, noise=SampleNoise(0, 2))
    torch.testing.assert_close(got, chain(scheduler, network_of(variance)), rtol=0, atol=LARGEST)


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
@pytest.mark.parametrize("prediction", ["epsilon", "x0"])
@pytest.mark.parametrize("steps", [25, 64])
def test_unclips_scheduler_is_respaced_ddpm(
    monkeypatch: pytest.MonkeyPatch, prediction: Any, variance: Any, steps: int
) -> None:
    named = {"fixed_small": "fixed_small_log"}.get(variance, variance)
    scheduler = make(UnCLIPScheduler, prediction, named)
    scheduler.set_timesteps(steps)
    noise = SampleNoise(0, 2)
    monkeypatch.setattr(scheduling_unclip, "randn_tensor", lambda shape, **_: noise.draw(tuple(shape)[1:]))
    process = ours(prediction, variance).spaced(steps)
    assert process.timestep_map.tolist() == scheduler.timesteps.flip(0).tolist()
    got = ddpm(process, network_of(variance), X_T, noise=SampleNoise(0, 2))
    torch.testing.assert_close(got, chain(scheduler, network_of(variance)), rtol=0, atol=LARGEST)


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("prediction", PREDICTION)
def test_ddim_is_diffusers(monkeypatch: pytest.MonkeyPatch, prediction: Any, eta: float) -> None:
    scheduler = make(DDIMScheduler, prediction)
    scheduler.set_timesteps(20)
    noise = SampleNoise(0, 2)
    monkeypatch.setattr(scheduling_ddim, "randn_tensor", lambda shape, **_: noise.draw(tuple(shape)[1:]))
    expected = chain(scheduler, varied(3), eta=eta, use_clipped_model_output=True)
    process = ours(prediction, "fixed_small").spaced("ddim20")
    got = ddim(process, varied(3), X_T, noise=SampleNoise(0, 2), eta=eta)
    torch.testing.assert_close(got, expected, rtol=0, atol=LARGEST)


@pytest.mark.parametrize("prediction", PREDICTION)
def test_dpm_solver_is_diffusers_up_to_the_step_into_timestep_0(prediction: Any) -> None:
    """Estimates of x_0 at every visited step but the last, which ours reaches by a step of first order."""
    scheduler = make(DPMSolverMultistepScheduler, prediction, solver_order=2, lower_order_final=False)
    process = ours(prediction, "fixed_small").spaced("ddim20")
    scheduler.set_timesteps(timesteps=process.timestep_map.flip(0).tolist())
    estimates, x = [], X_T
    for t in scheduler.timesteps:
        x = scheduler.step(varied(3)(x, t.expand(2)), t, x).prev_sample
        estimates.append(scheduler.model_outputs[-1])
    got: list[Tensor] = []
    dpm_solver_pp_2m(process, varied(3), X_T, clip_x0=False, callback=lambda *report: got.append(report[2]))
    assert len(got) == len(estimates) == 20
    for mine, expected in zip(got[:-1], estimates[:-1], strict=True):
        size = float(expected.abs().max())
        torch.testing.assert_close(mine, expected, rtol=0, atol=LARGEST * max(1.0, size))
