"""Timesteps drawn by loss: the published probabilities, an unbiased mean, less noise than uniform ones."""

import numpy as np
import pytest
import torch
from guided_diffusion.resample import LossSecondMomentResampler

from models.diffusion.timesteps import LossAwareTimesteps


def warmed(steps: int = 8, rounds: int = 15, seed: int = 0) -> tuple[LossAwareTimesteps, torch.Tensor]:
    """A sampler that saw `rounds` losses at every step, and those losses, [rounds, steps]."""
    g = torch.Generator().manual_seed(seed)
    losses = torch.rand(rounds, steps, generator=g) * torch.logspace(0, -3, steps)
    timesteps = LossAwareTimesteps(steps)
    for row in losses:
        timesteps.record(torch.arange(steps), row)
    return timesteps, losses


def test_probabilities_are_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    # The published class names an alias that NumPy 1.24 removed.
    monkeypatch.setattr(np, "int", int, raising=False)
    ours, losses = warmed()

    class Process:
        num_timesteps = 8

    theirs = LossSecondMomentResampler(Process())
    for row in losses:
        theirs.update_with_all_losses(list(range(8)), row.double().tolist())
    expected = theirs.weights() / theirs.weights().sum()
    np.testing.assert_allclose(ours.probabilities().numpy(), expected, rtol=0, atol=1e-12)


def test_uniform_until_every_timestep_has_its_history() -> None:
    timesteps = LossAwareTimesteps(3, history=2)
    for t in ([0, 1, 2], [0, 1], [0, 1]):
        assert not timesteps.warm
        assert timesteps.probabilities().tolist() == pytest.approx([1 / 3] * 3)
        timesteps.record(torch.tensor(t), torch.arange(1.0, 1 + len(t)))
    timesteps.record(torch.tensor([2]), torch.tensor([9.0]))
    assert timesteps.warm and timesteps.probabilities().argmax() == 2


def test_weighted_losses_have_the_uniform_mean_and_less_variance() -> None:
    """By the probabilities themselves: no draw is needed."""
    timesteps, _ = warmed()
    loss = torch.logspace(0, -3, 8).double() / 2  # the mean loss at each step, about
    p, weight = timesteps.probabilities(), timesteps.importance(torch.arange(8)).double()
    assert float((p * weight * loss).sum()) == pytest.approx(float(loss.mean()), rel=1e-6)
    variance = float((p * (weight * loss) ** 2).sum() - loss.mean() ** 2)
    assert variance < float(loss.var(correction=0)) / 10


def test_state_goes_on_where_it_stopped() -> None:
    timesteps, _ = warmed()
    again = LossAwareTimesteps(8)
    again.load_state_dict(timesteps.state_dict())
    for one in (timesteps, again):
        one.record(torch.tensor([3, 3, 5]), torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(again.probabilities(), timesteps.probabilities())
    with pytest.raises(ValueError, match=r"expected a history of shape \(9, 10\), got \(8, 10\)"):
        LossAwareTimesteps(9).load_state_dict(timesteps.state_dict())
