import dataclasses
import math
from functools import partial

import pytest
import torch

from models.config import PriorConfig
from models.diffusion.analytic import NoisePowers
from models.diffusion.noise import SampleNoise
from models.diffusion.process import Diffusion
from models.diffusion.schedule import cosine_betas
from models.prior import embedding_scale
from models.sampling import StageSampling
from tests.models.tiny import DIM, PRIOR, prompts, randomised, unit

NETWORK = randomised(PRIOR.build())
T = torch.tensor([0, 40, 99])


def predict(lengths: list[int], **changes: torch.Tensor) -> torch.Tensor:
    tokens, mask = prompts(lengths)
    inputs = {"x_t": unit(3, 1), "t": T, "text": tokens, "text_mask": mask, "text_embedding": unit(3, 2)}
    return NETWORK(**{**inputs, **changes})


def test_the_scale_is_the_papers_and_gives_pixel_deviation_at_every_dimension() -> None:
    assert embedding_scale(1024) == pytest.approx(17.2)
    for dim in (256, 768, 1024):
        assert (unit(4000, dim=dim) * embedding_scale(dim)).std().item() == pytest.approx(0.5375, rel=0.01)


def test_padding_is_not_read_and_short_input_is_padded() -> None:
    tokens, mask = prompts([6, 3, 0])
    other = torch.where(mask, tokens, torch.zeros_like(tokens))
    torch.testing.assert_close(predict([6, 3, 0], text=other), predict([6, 3, 0]))
    short, short_mask = tokens[:, :3], mask[:, :3]
    torch.testing.assert_close(predict([3, 3, 0], text=short, text_mask=short_mask), predict([3, 3, 0]))


def test_every_input_reaches_the_output() -> None:
    base = predict([6, 3, 2])
    tokens, _ = prompts([6, 3, 2])
    changes = {
        "x_t": unit(3, 9),
        "t": T + 1,
        "text": (tokens + 1) % 50,
        "text_embedding": unit(3, 8),
        "text_mask": prompts([5, 2, 1])[1],
    }
    for name, value in changes.items():
        different = (predict([6, 3, 2], **{name: value}) - base).abs().amax(dim=1)
        assert bool((different > 1e-6).all()), name


def test_dropped_samples_see_neither_text_nor_its_embedding() -> None:
    drop = torch.tensor([True, False, True])
    tokens, _ = prompts([6, 3, 2])
    base = predict([6, 3, 2], drop=drop)
    other = predict(
        [6, 3, 2],
        drop=drop,
        text=(tokens + 1) % 50,
        text_mask=prompts([1, 2, 5])[1],
        text_embedding=unit(3, 5),
    )
    assert torch.equal(base[drop], other[drop])
    assert not torch.allclose(base[~drop], other[~drop])
    torch.testing.assert_close(base[~drop], predict([6, 3, 2])[~drop])


@pytest.mark.parametrize("dropped", [None, (True, False, True)])
def test_what_comes_before_the_timestep_is_computed_once_for_a_chain(
    dropped: tuple[bool, ...] | None,
) -> None:
    """Padding, an empty prompt and dropped samples among them; the second call must not see the first's."""
    tokens, mask = prompts([6, 3, 0])
    drop = None if dropped is None else torch.tensor(dropped)
    conditions = NETWORK.condition(tokens, mask, unit(3, 2), drop)
    for seed, t in ((1, T), (5, T.flip(0))):
        expected = NETWORK(unit(3, seed), t, tokens, mask, unit(3, 2), drop)
        got = NETWORK.denoise(unit(3, seed), t, **conditions)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_a_few_steps_of_training_beat_the_mean() -> None:
    """The image embedding is a rotation of the text embedding: the tiny prior learns it, from pure noise."""
    torch.manual_seed(0)
    network = PRIOR.build()
    rotation = torch.linalg.qr(torch.randn(DIM, DIM)).Q
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    t = torch.full((64,), 99)
    tokens, mask = prompts([3] * 64)
    for step in range(150):
        z_t = unit(64, step)
        z_i = z_t @ rotation * network.scale
        loss = ((network(torch.randn(64, DIM), t, tokens, mask, z_t) - z_i) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    constant = network.scale**2 / DIM
    assert loss.item() < 0.3 * constant
    assert constant == pytest.approx(0.5375**2, rel=0.01) and math.isfinite(loss.item())


def test_features_of_an_outer_encoder_are_taken_where_configured_and_only_there() -> None:
    config = PriorConfig(embedding_dim=DIM, context=6, width=32, layers=1, heads=2, text_features_dim=24)
    features, mask = torch.randn(2, 4, 24), torch.ones(2, 4, dtype=torch.bool)
    out = config.build()(unit(2), T[:2], features, mask, unit(2))
    assert out.shape == (2, DIM)
    with pytest.raises(ValueError, match=r"expected token ids \[B, L\], got torch.float32"):
        NETWORK(unit(2), T[:2], features, mask, unit(2))
    with pytest.raises(ValueError, match=r"expected features \[B, L, 24\], got torch.int64"):
        config.build()(unit(2), T[:2], mask.long(), mask, unit(2))


def test_bad_input_says_expected_and_got() -> None:
    tokens, mask = prompts([2])
    with pytest.raises(ValueError, match="expected x_t of width 16, got 8"):
        NETWORK(unit(1, dim=8), T[:1], tokens, mask, unit(1, dim=8))
    long = torch.ones(1, 7, dtype=torch.long)
    with pytest.raises(ValueError, match="the context is 6 tokens, got 7"):
        NETWORK(unit(1), T[:1], long, long.bool(), unit(1))


def test_standardised_embeddings_have_their_own_mean_and_deviation_and_no_norm() -> None:
    network = randomised(dataclasses.replace(PRIOR, normalisation="standardised").build())
    mean, std = torch.randn(1, DIM), torch.rand(1, DIM) + 0.5
    network.embedding_mean.copy_(mean)
    network.embedding_std.copy_(std)
    z = torch.randn(3, DIM) * 5
    torch.testing.assert_close(network.to_embedding((z - mean) / std), z)
    plain = randomised(PRIOR.build())
    conditions = {
        "x_t": unit(3, 1),
        "t": T,
        "text": prompts([6, 3, 2])[0],
        "text_mask": prompts([6, 3, 2])[1],
    }
    torch.testing.assert_close(
        network(**conditions, text_embedding=unit(3) * plain.scale),
        plain(**conditions, text_embedding=unit(3)),
    )


def test_a_given_null_is_what_the_empty_prompt_gives() -> None:
    features, mask, embedding = torch.randn(1, 2, 24), torch.tensor([[True, False]]), torch.randn(1, DIM)
    config = PriorConfig(
        **{"embedding_dim": DIM, "context": 6, "width": 32, "layers": 1, "heads": 2},
        text_features_dim=24,
        null_text="given",
        normalisation="standardised",
    )
    network = randomised(config.build())
    network.set_null(features, mask, embedding)
    text, drop = torch.randn(3, 6, 24), torch.tensor([True, False, True])
    args = (unit(3), T, text, torch.ones(3, 6, dtype=torch.bool), torch.randn(3, DIM))
    dropped = network(*args, drop)
    empty = network(unit(3), T, features.expand(3, -1, -1), mask.expand(3, -1), embedding.expand(3, -1))
    torch.testing.assert_close(dropped[drop], empty[drop])
    assert torch.equal(dropped[~drop], network(*args)[~drop])
    unset, process = config.build(), Diffusion(cosine_betas(10), prediction="x0", variance="fixed_small")
    with pytest.raises(ValueError, match="never given; call set_null"):
        unset(*args, drop)
    assert unset(*args, torch.zeros_like(drop)).isfinite().all()
    powers = NoisePowers(process, (), data_variance=1.0)
    draw = partial(unset.sample, *args[2:], diffusion=process, powers=powers, noise=SampleNoise(0, 3))
    assert draw(settings=StageSampling(steps=2)).isfinite().all()
    with pytest.raises(ValueError, match="never given; call set_null"):
        draw(settings=StageSampling(steps=2, guidance=2.0))
    with pytest.raises(ValueError, match="this network learned its null"):
        NETWORK.set_null(features, mask, embedding)
