"""The whole chain without images: a tiny prior learns two Gaussians, and is sampled with their means,
variances and weights."""

import pytest
import torch
from torch import Tensor

from models.config import DiffusionConfig, PriorConfig
from models.diffusion.analytic import noise_power, with_analytic_variance
from models.diffusion.noise import SampleNoise
from models.diffusion.process import Diffusion
from models.diffusion.samplers import Denoiser, ddpm

MEANS = torch.tensor([[5.4, -2.7], [-5.4, 2.7]])
DEVIATIONS = torch.tensor([[2.7, 1.8], [1.8, 2.7]])
WEIGHTS = torch.tensor([0.3, 0.7])
# Few steps in training too: what the network has to learn at each of them is then learned in seconds.
PROCESS = DiffusionConfig(steps=12, prediction="x0", variance="fixed_small").build()
BATCH, SAMPLES = 256, 2000


def draw(count: int, generator: torch.Generator) -> Tensor:
    mode = (torch.rand(count, generator=generator) >= WEIGHTS[0]).long()
    return MEANS[mode] + DEVIATIONS[mode] * torch.randn(count, 2, generator=generator)


def caption(count: int) -> dict[str, Tensor]:
    """One that says nothing."""
    mask = torch.ones(count, 1, dtype=torch.bool)
    return {"text": mask.long(), "text_mask": mask, "text_embedding": torch.zeros(count, 2)}


@pytest.fixture(scope="module")
def denoise() -> Denoiser:
    """The trained prior, for any number of rows."""
    torch.manual_seed(0)
    network = PriorConfig(embedding_dim=2, context=1, width=32, layers=2, heads=2, vocab_size=2).build()
    steps, generator = 400, torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        x0, t = draw(BATCH, generator), torch.randint(PROCESS.num_steps, (BATCH,), generator=generator)
        x_t = PROCESS.q_sample(x0, t, torch.randn(BATCH, 2, generator=generator))
        loss = (network(x_t, t, **caption(BATCH)) - x0).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    return lambda x_t, t: network(x_t, t, **caption(len(x_t)))


def moments(process: Diffusion, denoise: Denoiser) -> tuple[Tensor, Tensor, Tensor]:
    """Of the samples nearest to each mode: their share, and their mean and deviation less the true ones, in
    true deviations."""
    noise = SampleNoise(seed=1, count=SAMPLES)
    x = ddpm(process, denoise, noise.draw((2,)), noise=noise, clip_x0=False)
    parts = [x[torch.cdist(x, MEANS).argmin(dim=1) == mode] for mode in (0, 1)]
    share = torch.tensor([len(part) / SAMPLES for part in parts])
    mean = torch.stack([part.mean(dim=0) for part in parts])
    deviation = torch.stack([part.std(dim=0) for part in parts])
    return share, (mean - MEANS) / DEVIATIONS, deviation / DEVIATIONS - 1


def test_samples_have_the_modes_weights_means_and_variances(denoise: Denoiser) -> None:
    """Twelve steps of the process's own variance, the small one, leave the modes somewhat narrow."""
    share, mean, deviation = moments(PROCESS, denoise)
    torch.testing.assert_close(share, WEIGHTS, rtol=0, atol=0.09)
    assert float(mean.abs().max()) < 0.35
    assert float(deviation.min()) > -0.3 and float(deviation.max()) < 0.1


def test_analytic_variance_brings_them_nearer(denoise: Denoiser) -> None:
    spread = float((WEIGHTS[:, None] * (DEVIATIONS**2 + MEANS**2)).sum(dim=0).max())
    power = noise_power(PROCESS, [(draw(1000, torch.Generator().manual_seed(1)), denoise)], seed=0)
    process = with_analytic_variance(PROCESS, power, data_variance=spread)
    share, mean, deviation = moments(process, denoise)
    torch.testing.assert_close(share, WEIGHTS, rtol=0, atol=0.04)
    assert float(mean.abs().max()) < 0.25
    assert float(deviation.abs().max()) < 0.12
    plain = moments(PROCESS, denoise)
    assert float((share - WEIGHTS).abs().max()) < 0.5 * float((plain[0] - WEIGHTS).abs().max())
    assert float(deviation.abs().max()) < 0.5 * float(plain[2].abs().max())
