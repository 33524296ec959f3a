"""A guide that has learned to see through noise."""

import pytest
import torch
from torch import Tensor

from models.config import DiffusionConfig, NoisedClipConfig
from models.diffusion.noise import SampleNoise
from models.diffusion.samplers import ddim, ddpm
from models.noised_clip import NoisedClip, clip_guide, noised_clip_loss

CONFIG = NoisedClipConfig(embedding_dim=4, width=32, layers=1, heads=2, image_size=8, patch_size=4)
PROCESS = DiffusionConfig(prediction="x0", variance="fixed_small").build()
COLOURS = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]])[:, :, None, None].expand(
    4, 3, 8, 8
)
TEXTS = torch.eye(4)


def noised(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x_t of plain pictures in four colours, t, and which colour."""
    g = torch.Generator().manual_seed(seed)
    which, t = torch.arange(count) % 4, torch.randint(1000, (count,), generator=g)
    return PROCESS.q_sample(COLOURS[which], t, torch.randn(count, 3, 8, 8, generator=g)), t, which


@pytest.fixture(scope="module")
def trained() -> NoisedClip:
    torch.manual_seed(0)
    encoder = CONFIG.build()
    optimiser = torch.optim.Adam(encoder.parameters(), lr=2e-3)
    for step in range(100):
        x_t, t, which = noised(4, 1000 + step)
        loss = noised_clip_loss(encoder, x_t, t, TEXTS[which])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return encoder.eval()


def test_it_learns_to_tell_pictures_through_noise(trained: NoisedClip) -> None:
    x_t, t, which = noised(400, 1)
    right = (trained(x_t, t) @ TEXTS.T).argmax(dim=1) == which
    assert right[t < 600].float().mean() > 0.95
    assert right.float().mean() > 0.7


def test_embeddings_have_unit_norm_and_know_the_timestep(trained: NoisedClip) -> None:
    x_t, t, _ = noised(4, 2)
    embedding = trained(x_t, t)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(4))
    assert not torch.allclose(embedding, trained(x_t, (t + 500) % 1000), atol=1e-3)


def test_the_guide_is_the_gradient_of_the_scaled_dot_product(trained: NoisedClip) -> None:
    """Against central differences in float64."""
    encoder = NoisedClip(CONFIG).double()
    encoder.load_state_dict(trained.state_dict())
    x_t, t, which = noised(2, 3)
    x_t, target = x_t.double(), TEXTS[which].double()
    gradient = clip_guide(encoder, target, scale=2.5)(x_t, t)
    direction, h = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(0)).double(), 1e-5

    def objective(x: Tensor) -> Tensor:
        return 2.5 * encoder.logit_scale * (encoder(x, t) * target).sum(dim=1)

    slope = (objective(x_t + h * direction) - objective(x_t - h * direction)) / (2 * h)
    torch.testing.assert_close(
        (gradient * direction).sum(dim=(1, 2, 3)), slope.detach(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("sampler", [ddpm, ddim])
def test_an_unconditional_network_is_led_to_the_caption(sampler: object, trained: NoisedClip) -> None:
    """The network knows four colours and makes any; guided, it makes the one that is asked for."""
    assert callable(sampler)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        abar = PROCESS.alphas_cumprod[t].to(x_t)[:, None]
        distance = ((x_t[:, None] - abar[..., None, None, None].sqrt() * COLOURS) ** 2).flatten(2).sum(dim=2)
        weights = (-distance / (2 * (1 - abar))).softmax(dim=1)
        return torch.einsum("bk,kchw->bchw", weights, COLOURS)

    def made(guide: object) -> Tensor:
        noise = SampleNoise(seed=0, count=16)
        x = sampler(PROCESS.spaced(25), denoise, noise.draw((3, 8, 8)), noise=noise, guide=guide)
        return ((x[:, None] - COLOURS) ** 2).flatten(2).sum(dim=2).argmin(dim=1)

    assert len(made(None).unique()) > 2
    assert (made(clip_guide(trained, TEXTS[[1] * 16], scale=10.0)) == 1).float().mean() > 0.9


def test_an_image_of_another_side_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images of 8x8, got \(16, 16\)"):
        CONFIG.build()(torch.zeros(1, 3, 16, 16), torch.zeros(1, dtype=torch.long))
