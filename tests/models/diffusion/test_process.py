from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import DiffusionConfig
from models.diffusion.process import Diffusion, PredictionType
from models.diffusion.schedule import cosine_betas, linear_betas


def process(prediction: PredictionType = "epsilon", sections: int | str = 1000) -> Diffusion:
    return Diffusion(linear_betas(1000), prediction=prediction, variance="fixed_small").spaced(sections)


def exact_output(
    diffusion: Diffusion, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """What a perfect network would say."""
    if diffusion.prediction == "x0":
        return x0
    if diffusion.prediction == "epsilon":
        return noise
    abar = diffusion.alphas_cumprod[t][:, None, None, None]
    return abar.sqrt() * noise - (1 - abar).sqrt() * x0


@settings(max_examples=40, deadline=None)
@given(
    prediction=st.sampled_from(["epsilon", "x0", "v"]),
    sections=st.sampled_from([1000, 64, "10,10,3,2,2", "ddim50"]),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_q_then_p_returns_what_went_in(
    prediction: PredictionType, sections: int | str, fraction: float, seed: int
) -> None:
    """In float64, x0 and the noise come back from x_t and a perfect output, at any step of any spacing."""
    diffusion = process(prediction, sections)
    g = torch.Generator().manual_seed(seed)
    x0 = torch.rand(2, 3, 4, 4, generator=g, dtype=torch.float64) * 2 - 1
    noise = torch.randn(2, 3, 4, 4, generator=g, dtype=torch.float64)
    t = torch.full((2,), round(fraction * (diffusion.num_steps - 1)))
    x_t = diffusion.q_sample(x0, t, noise)
    p = diffusion.predict(exact_output(diffusion, x0, t, noise), x_t, t, clip_x0=False)
    torch.testing.assert_close(p.x0, x0, rtol=0, atol=1e-9)
    torch.testing.assert_close(p.epsilon, noise, rtol=0, atol=1e-9)
    torch.testing.assert_close(p.mean, diffusion.q_posterior(x0, x_t, t)[0], rtol=0, atol=1e-9)
    loss = diffusion.training_losses(exact_output(diffusion, x0, t, noise), x0, x_t, t, noise)
    assert float(loss.max()) < 1e-20


def test_q_sample_has_the_moments_of_its_closed_form() -> None:
    diffusion = process()
    x0, t = torch.full((20_000, 1), 0.7), torch.full((20_000,), 400)
    x_t = diffusion.q_sample(x0, t, torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)))
    abar = diffusion.alphas_cumprod[400]
    assert x_t.mean().item() == pytest.approx(0.7 * abar.sqrt().item(), abs=0.03)
    assert x_t.var().item() == pytest.approx(1 - abar.item(), abs=0.03)


@settings(max_examples=30, deadline=None)
@given(
    level=st.floats(0, 1), seed=st.integers(0, 2**31), schedule=st.sampled_from([cosine_betas, linear_betas])
)
def test_a_level_of_noise_is_a_step_of_the_process(
    level: float, seed: int, schedule: Callable[[int], torch.Tensor]
) -> None:
    """Level 0 changes nothing; level k / T is step k of T, to half a step."""
    diffusion = Diffusion(schedule(1000), prediction="epsilon", variance="fixed_small")
    g = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, 3, 4, 4, generator=g), torch.randn(2, 3, 4, 4, generator=g)
    levels = torch.tensor([0.0, level], dtype=torch.float64)
    noised = diffusion.noise_to_level(x0, levels, noise)
    assert torch.equal(noised[0], x0[0])
    step = round(level * 1000) - 1
    expected = diffusion.q_sample(x0, torch.tensor([0, max(step, 0)]), noise)[1] if step >= 0 else x0[1]
    torch.testing.assert_close(noised[1], expected, rtol=0, atol=1e-5)


def test_clipping_x0_keeps_epsilon_in_agreement_with_it() -> None:
    diffusion = process()
    x_t, t = torch.randn(2, 3, 4, 4), torch.tensor([100, 900])
    p = diffusion.predict(torch.randn(2, 3, 4, 4), x_t, t, clip_x0=True)
    assert float(p.x0.abs().max()) == 1
    torch.testing.assert_close(diffusion.q_sample(p.x0, t, p.epsilon), x_t, rtol=1e-5, atol=1e-5)


def test_learned_variance_runs_between_its_bounds_and_trains_nothing_but_itself() -> None:
    diffusion = Diffusion(cosine_betas(100), prediction="epsilon", variance="learned_range")
    x0, noise, t = torch.rand(4, 3, 4, 4), torch.randn(4, 3, 4, 4), torch.tensor([0, 3, 50, 99])
    x_t = diffusion.q_sample(x0, t, noise)
    low, high = (
        diffusion.predict(torch.cat([noise, torch.full_like(noise, end)], 1), x_t, t, False).log_variance
        for end in (-1.0, 1.0)
    )
    assert bool((low[1:] < high[1:]).all())
    torch.testing.assert_close(high[:, 0, 0, 0], diffusion.betas[t].log().float())
    mean = noise.clone().requires_grad_()
    variance = torch.zeros_like(noise).requires_grad_()
    output = torch.cat([mean, variance], dim=1)
    diffusion.variational_bound(
        torch.cat([output[:, :3].detach(), output[:, 3:]], 1), x0, x_t, t
    ).sum().backward()
    assert mean.grad is None or not mean.grad.any()
    assert variance.grad is not None and bool(variance.grad.any())


def test_a_half_precision_output_is_read_in_the_precision_of_x_t() -> None:
    diffusion = process()
    x_t, t = torch.randn(2, 3, 4, 4), torch.tensor([1, 2])
    output = torch.randn(2, 3, 4, 4).bfloat16()
    assert diffusion.predict(output, x_t, t, True).x0.dtype == torch.float32


def test_network_and_process_that_disagree_on_the_variance_are_told_so() -> None:
    x_t, t = torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"fixed_small.*expects 3 output channels.*got 6"):
        process().predict(torch.zeros(1, 6, 4, 4), x_t, t, True)


@pytest.mark.parametrize("level", [-0.1, 1.1, float("nan")])
def test_levels_outside_the_unit_interval_are_refused(level: float) -> None:
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"expected levels in \[0, 1\], got \[0.5, "):
        process().noise_to_level(x, torch.tensor([0.5, level]), x)


def test_betas_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        Diffusion(torch.tensor([0.1, 1.2], dtype=torch.float64), prediction="x0", variance="fixed_small")


def test_dynamic_threshold_rescales_each_sample_by_its_own_quantile() -> None:
    process = Diffusion(cosine_betas(10), prediction="x0", variance="fixed_small")
    inside, outside = torch.linspace(-0.5, 0.5, 48), torch.linspace(-4, 4, 48)
    output = torch.stack([inside, outside]).reshape(2, 3, 4, 4)
    t = torch.tensor([5, 5])
    x0 = process.predict(output, torch.zeros_like(output), t, clip_x0=0.9).x0
    torch.testing.assert_close(x0[0], output[0])  # nothing beyond [-1, 1]: as it was
    limit = torch.quantile(outside.abs(), 0.9)
    torch.testing.assert_close(x0[1].flatten(), outside.clamp(-limit, limit) / limit)
    whole = process.predict(output, torch.zeros_like(output), t, clip_x0=1.0).x0
    torch.testing.assert_close(whole[1].flatten(), outside / 4)
    with pytest.raises(ValueError, match="quantile in"):
        process.predict(output, output, t, clip_x0=99.5)


def test_the_clip_range_is_the_processes_own_and_survives_respacing() -> None:
    config = DiffusionConfig(prediction="x0", variance="fixed_small", clip_range=5.0)
    output = torch.tensor([[-9.0, 4.0, 7.0]])
    for process in (config.build(), config.build().spaced(10)):
        p = process.predict(output, torch.zeros(1, 3), torch.tensor([5]), clip_x0=True)
        assert p.x0.tolist() == [[-5.0, 4.0, 5.0]]
    dynamic = process.predict(output, torch.zeros(1, 3), torch.tensor([5]), clip_x0=1.0)
    torch.testing.assert_close(dynamic.x0, output * 5 / 9)
