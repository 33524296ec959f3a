"""Our schedules, process and samplers against OpenAI's published ones (`guided-diffusion-sdk`)."""

import pytest
import torch
from guided_diffusion import gaussian_diffusion as gd
from guided_diffusion.respace import SpacedDiffusion, space_timesteps
from torch import Tensor

from models.diffusion.likelihood import bits_per_element, prior_bits
from models.diffusion.noise import SampleNoise
from models.diffusion.process import Diffusion, PredictionType, VarianceType
from models.diffusion.samplers import Denoiser, Guide, ddim, ddim_invert, ddpm
from models.diffusion.schedule import cosine_betas, linear_betas, spaced_steps

MEAN: dict[PredictionType, gd.ModelMeanType] = {
    "epsilon": gd.ModelMeanType.EPSILON,
    "x0": gd.ModelMeanType.START_X,
}
VARIANCE: dict[VarianceType, gd.ModelVarType] = {
    "learned_range": gd.ModelVarType.LEARNED_RANGE,
    "fixed_small": gd.ModelVarType.FIXED_SMALL,
    "fixed_large": gd.ModelVarType.FIXED_LARGE,
}
PROCESSES = [(p, v) for p in MEAN for v in VARIANCE]
SECTIONS = [
    *((1000, s) for s in ("1000", "250", "64", "27", "10,10,3,2,2", "ddim50", "ddim25", "7,1")),
    *((999, s) for s in ("250", "27", "10,10,3,2,2", "3,1,4")),
]


def pair(
    prediction: PredictionType, variance: VarianceType, sections: str = "40"
) -> tuple[Diffusion, SpacedDiffusion]:
    ours = Diffusion(cosine_betas(1000), prediction=prediction, variance=variance)
    theirs = SpacedDiffusion(
        use_timesteps=space_timesteps(1000, sections),
        betas=gd.get_named_beta_schedule("cosine", 1000),
        model_mean_type=MEAN[prediction],
        model_var_type=VARIANCE[variance],
        loss_type=gd.LossType.RESCALED_MSE,
    )
    return ours.spaced(sections), theirs


def batch(variance: VarianceType) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x0, noise, network output and steps that contain both ends."""
    g = torch.Generator().manual_seed(0)
    channels = 6 if variance == "learned_range" else 3
    x0 = (torch.randn(5, 3, 8, 8, generator=g) * 0.6).clamp(-1, 1)
    noise, output = torch.randn(5, 3, 8, 8, generator=g), torch.randn(5, channels, 8, 8, generator=g)
    return x0, noise, output, torch.tensor([0, 1, 17, 30, 39])


@pytest.mark.parametrize("steps", [1000, 100])
@pytest.mark.parametrize(("name", "ours"), [("cosine", cosine_betas), ("linear", linear_betas)])
def test_schedules_are_the_published_ones(name: str, ours: object, steps: int) -> None:
    assert callable(ours)
    theirs = torch.from_numpy(gd.get_named_beta_schedule(name, steps))
    torch.testing.assert_close(ours(steps), theirs, rtol=0, atol=1e-16)


@pytest.mark.parametrize(("total", "sections"), SECTIONS)
def test_spaced_steps_visit_the_published_steps(total: int, sections: str) -> None:
    assert set(spaced_steps(total, sections)) == space_timesteps(total, sections)


@pytest.mark.parametrize("sections", ["40", "ddim50", "10,10,3,2,2"])
def test_respacing_keeps_coefficients_and_timesteps(sections: str) -> None:
    ours, theirs = pair("epsilon", "learned_range", sections)
    assert ours.timestep_map.tolist() == theirs.timestep_map
    torch.testing.assert_close(ours.betas, torch.from_numpy(theirs.betas), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        ours.alphas_cumprod, torch.from_numpy(theirs.alphas_cumprod), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("prediction", "variance"), PROCESSES)
def test_q_and_p_are_the_published_ones(
    prediction: PredictionType, variance: VarianceType, clip: bool
) -> None:
    ours, theirs = pair(prediction, variance)
    x0, noise, output, t = batch(variance)
    x_t = ours.q_sample(x0, t, noise)
    torch.testing.assert_close(x_t, theirs.q_sample(x0, t, noise), rtol=0, atol=1e-6)
    mean, log_variance = ours.q_posterior(x0, x_t, t)
    their_mean, _, their_log_variance = theirs.q_posterior_mean_variance(x0, x_t, t)
    torch.testing.assert_close(mean, their_mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_variance, their_log_variance, rtol=0, atol=1e-6)

    p = ours.predict(output, x_t, t, clip)
    q = theirs.p_mean_variance(lambda *_: output, x_t, t, clip_denoised=clip)
    # Unclipped, x0 is divided by sqrt(abar) and grows to thousands: the tolerance is relative there.
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(p.x0, q["pred_xstart"], **tolerance)
    torch.testing.assert_close(p.mean, q["mean"], **tolerance)
    torch.testing.assert_close(p.log_variance, q["log_variance"], **tolerance)
    torch.testing.assert_close(
        p.epsilon, theirs._predict_eps_from_xstart(x_t, t, q["pred_xstart"]), **tolerance
    )


@pytest.mark.parametrize(("prediction", "variance"), PROCESSES)
def test_losses_and_their_gradients_are_the_published_ones(
    prediction: PredictionType, variance: VarianceType
) -> None:
    ours, theirs = pair(prediction, variance)
    x0, noise, output, t = batch(variance)
    a, b = output.clone().requires_grad_(), output.clone().requires_grad_()
    x_t = ours.q_sample(x0, t, noise)
    loss = ours.training_losses(a, x0, x_t, t, noise)
    their_loss = theirs.training_losses(lambda *_: b, x0, t, noise=noise)["loss"]
    torch.testing.assert_close(loss, their_loss, rtol=1e-5, atol=1e-6)
    loss.sum().backward()
    their_loss.sum().backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("prediction", "variance"), PROCESSES)
def test_terms_of_the_bound_are_the_published_ones(
    prediction: PredictionType, variance: VarianceType, clip: bool
) -> None:
    ours, theirs = pair(prediction, variance)
    x0, noise, output, t = batch(variance)
    x_t = ours.q_sample(x0, t, noise)
    expected = theirs._vb_terms_bpd(lambda *_: output, x0, x_t, t, clip_denoised=clip)["output"]
    got = ours.variational_bound(output, x0, x_t, t, clip_x0=clip)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def varied(channels: int) -> Denoiser:
    """A network whose output depends on the timestep, so that a wrong mapping would show."""
    weight = torch.randn(channels, 3, generator=torch.Generator().manual_seed(0)) * 0.3

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(torch.einsum("oc,bchw->bohw", weight, x_t)) * (0.5 + t[:, None, None, None] / 1000)

    return denoise


@pytest.mark.parametrize("clip", [True, False])
def test_bits_per_element_are_the_published_ones(monkeypatch: pytest.MonkeyPatch, clip: bool) -> None:
    ours, theirs = pair("epsilon", "learned_range", "20")
    x0 = batch("learned_range")[0]
    torch.testing.assert_close(prior_bits(ours, x0), theirs._prior_bpd(x0), rtol=1e-4, atol=1e-7)
    monkeypatch.setattr(gd.th, "randn_like", SampleNoise(0, len(x0)).like)
    expected = theirs.calc_bpd_loop(varied(6), x0, clip_denoised=clip)["total_bpd"]
    got = bits_per_element(ours, varied(6), x0, noise=SampleNoise(0, len(x0)), clip_x0=clip)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


class Pull:
    """A guide, and the published `cond_fn`: towards a picture, the more the less noise there is."""

    def __init__(self) -> None:
        self.target = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        # Depends on the timestep, so that a wrong mapping would show.
        return (self.target - x_t) * (2 - t[:, None, None, None] / 1000)


@pytest.mark.parametrize(("prediction", "variance"), PROCESSES)
def test_guided_means_and_scores_are_the_published_ones(
    prediction: PredictionType, variance: VarianceType
) -> None:
    ours, theirs = pair(prediction, variance)
    x0, noise, output, t = batch(variance)
    x_t, guide = ours.q_sample(x0, t, noise), Pull()
    p = ours.predict(output, x_t, t, clip_x0=True)
    q = theirs.p_mean_variance(lambda *_: output, x_t, t, clip_denoised=True)
    gradient = guide(x_t, ours.original_timesteps(t))
    expected = theirs.condition_mean(guide, q, x_t, t, model_kwargs={})
    torch.testing.assert_close(ours.guided_mean(p, t, gradient), expected, rtol=0, atol=1e-5)
    shifted = ours.with_score(p, x_t, t, gradient)
    expected = theirs.condition_score(guide, q, x_t, t, model_kwargs={})
    # At step 39 x0 is thousands: the tolerance is relative there.
    torch.testing.assert_close(shifted.x0, expected["pred_xstart"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shifted.mean, expected["mean"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("guide", [None, Pull()], ids=["free", "guided"])
@pytest.mark.parametrize(("prediction", "variance"), PROCESSES)
def test_ancestral_chain_is_the_published_one(
    monkeypatch: pytest.MonkeyPatch,
    prediction: PredictionType,
    variance: VarianceType,
    guide: Guide | None,
    clip: bool,
) -> None:
    """p_sample and, guided, condition_mean."""
    ours, theirs = pair(prediction, variance, "10,5,3")
    denoise, x_T = varied(6 if variance == "learned_range" else 3), SampleNoise(1, 5).draw((3, 8, 8))
    monkeypatch.setattr(gd.th, "randn_like", SampleNoise(0, 5).like)
    expected = theirs.p_sample_loop(
        denoise, x_T.shape, noise=x_T, device="cpu", clip_denoised=clip, cond_fn=guide, model_kwargs={}
    )
    got = ddpm(ours, denoise, x_T, noise=SampleNoise(0, 5), clip_x0=clip, guide=guide)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guide", [None, Pull()], ids=["free", "guided"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("sections", ["ddim20", "10,10,3,2,2"])
def test_ddim_chain_is_the_published_one(
    monkeypatch: pytest.MonkeyPatch, sections: str, eta: float, guide: Guide | None
) -> None:
    """ddim_sample and, guided, condition_score.  At eta 1 the published chain is NaN over some sections: a
    variance rounds to below 0 there."""
    ours, theirs = pair("epsilon", "learned_range", sections)
    denoise, x_T = varied(6), SampleNoise(1, 5).draw((3, 8, 8))
    monkeypatch.setattr(gd.th, "randn_like", SampleNoise(0, 5).like)
    expected = theirs.ddim_sample_loop(
        denoise, x_T.shape, noise=x_T, device="cpu", eta=eta, cond_fn=guide, model_kwargs={}
    )
    got = ddim(ours, denoise, x_T, noise=SampleNoise(0, 5), eta=eta, guide=guide)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_inversion_is_the_published_one() -> None:
    """Up to the last step: theirs goes on to a signal of exactly 0, from which nothing comes back."""
    ours, theirs = pair("epsilon", "learned_range", "ddim20")
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat(
            [torch.tanh(x_t) * (1 + t.reshape(-1, 1, 1, 1) / 1000), torch.zeros_like(x_t)], dim=1
        )

    expected = x
    for step in range(19):
        t = torch.full((2,), step)
        expected = theirs.ddim_reverse_sample(denoise, expected, t, clip_denoised=False)["sample"]
    torch.testing.assert_close(ddim_invert(ours, denoise, x), expected, rtol=0, atol=1e-5)
