"""Losses per sample: closed forms, and independence of how a batch is cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from models.ar_prior import AutoregressivePrior
from models.config import ARPriorConfig, DecoderConfig, DiffusionConfig, PriorConfig, UpsamplerConfig
from models.config_text import TextTransformerConfig
from models.embedding_codec import EmbeddingCodec
from models.pca import Pca
from models.prior import embedding_scale
from pipelines.train.draws import Draws, Purpose
from pipelines.train.loop import split_batch
from pipelines.train.objectives import (
    ARPriorObjective,
    DecoderObjective,
    Network,
    Objective,
    PriorObjective,
    UpsamplerObjective,
)
from pipelines.train.stream import Batch, Stream, View
from tests.pipelines.train.fixtures import CONTEXT, VOCAB, Tiny

HYBRID = DiffusionConfig()
X0 = DiffusionConfig(prediction="x0", variance="fixed_small")


@pytest.fixture(scope="module")
def batch(tiny: Tiny) -> Batch:
    return Stream(tiny.index, split="train", seed=0, context=CONTEXT, view=View(side=32)).read(0, 8)


def _stages() -> dict[str, tuple[Network, Objective]]:
    torch.manual_seed(0)
    prior = PriorConfig(embedding_dim=16, context=CONTEXT, width=16, layers=1, heads=2, vocab_size=VOCAB)
    decoder = DecoderConfig(
        embedding_dim=16,
        model_channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(16,),
        vocab_size=VOCAB,
        text_context=CONTEXT,
        text_width=16,
        text_layers=1,
        text_heads=2,
        image_size=32,
        num_head_channels=8,
        norm_groups=4,
    )
    upsampler = UpsamplerConfig(
        image_size=32, low_res_size=8, model_channels=8, channel_mult=(1, 2), num_res_blocks=1, norm_groups=4
    )
    return {
        "prior": (prior.build(), PriorObjective(diffusion=X0, embedding_dim=16)),
        "ar_prior": (_ar_prior(), ARPriorObjective()),
        "decoder": (decoder.build(), DecoderObjective(diffusion=HYBRID)),
        "upsampler": (upsampler.build(), UpsamplerObjective(diffusion=HYBRID, scale=4)),
        "upsampler_bsr": (
            upsampler.build(),
            UpsamplerObjective(diffusion=HYBRID, scale=4, degradation="bsr"),
        ),
        "glide": (
            dataclasses.replace(decoder, embedding_dim=None).build(),
            DecoderObjective(diffusion=HYBRID, image=False, drop_text=0.2),
        ),
        "reading upsampler": (
            dataclasses.replace(
                upsampler,
                noise_conditioning=True,
                middle_attention=True,
                num_head_channels=8,
                text=TextTransformerConfig(vocab_size=VOCAB, context=CONTEXT, width=8, layers=1, heads=1),
            ).build(),
            UpsamplerObjective(diffusion=HYBRID, scale=4, noise_conditioning=True, text=True),
        ),
    }


def _ar_prior() -> AutoregressivePrior:
    config = ARPriorConfig(
        embedding_dim=16,
        components=6,
        vocab_size=VOCAB,
        text_context=CONTEXT,
        text_width=16,
        text_layers=1,
        text_heads=2,
        context=8,
        width=16,
        layers=1,
        heads=2,
        buckets=32,
    )
    network = config.build()
    torch.nn.init.normal_(network.to_logits.weight)
    images = torch.nn.functional.normalize(torch.randn(50, 16), dim=1)
    network.codec = EmbeddingCodec.fit(Pca.fit([images], 6), [(images, images)], buckets=32)
    return network


@pytest.mark.parametrize(
    "stage", ["prior", "ar_prior", "decoder", "upsampler", "upsampler_bsr", "glide", "reading upsampler"]
)
def test_losses_do_not_depend_on_how_the_batch_is_cut(batch: Batch, stage: str) -> None:
    network, objective = _stages()[stage]

    def losses(part: Batch) -> Tensor:
        return objective.losses(network, part, Draws(0, Purpose.TRAINING, part.positions))

    with torch.no_grad():
        whole = losses(batch)
        parts = torch.cat([losses(part) for part in split_batch(batch, 4)])
    assert whole.shape == (8,)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_a_prior_that_knows_the_answer_loses_nothing_and_one_that_says_zero_the_variance(
    batch: Batch,
) -> None:
    objective = PriorObjective(diffusion=X0, embedding_dim=16)
    scaled = torch.from_numpy(batch.image_embedding) * embedding_scale(16)
    draws = lambda: Draws(0, Purpose.TRAINING, batch.positions)  # noqa: E731
    knows = objective.losses(lambda *_: scaled, batch, draws())
    zero = objective.losses(lambda x_t, *_: torch.zeros_like(x_t), batch, draws())
    assert knows.abs().max() == 0
    # Unit-norm embeddings have 1/d of variance per dimension; unCLIP's scale makes that of any d the same.
    torch.testing.assert_close(zero, torch.full((8,), 17.2**2 / 1024), rtol=1e-5, atol=0)


def test_an_epsilon_prediction_of_zero_loses_the_noise(batch: Batch) -> None:
    process = DiffusionConfig(prediction="epsilon", variance="fixed_small")
    objective = UpsamplerObjective(diffusion=process, scale=4)
    draws = Draws(0, Purpose.TRAINING, batch.positions)
    losses = objective.losses(lambda x_t, *_: torch.zeros_like(x_t), batch, draws)
    torch.testing.assert_close(losses, torch.ones(8), rtol=0.1, atol=0)


def _recorded(objective: Objective, batch: Batch, drops: slice, stretches: int = 500) -> np.ndarray:
    """Drop flags that the objective hands to the network, over so many stretches of the stream."""
    seen: list[Tensor] = []

    def network(x_t: Tensor, *conditions: Tensor) -> Tensor:
        seen.append(torch.stack(conditions[drops]))
        return torch.cat([x_t, x_t], 1) if x_t.ndim == 4 else x_t

    for start in range(stretches):
        objective.losses(network, batch, Draws(0, Purpose.TRAINING, range(8 * start, 8 * start + 8)))
    return torch.cat(seen, dim=1).numpy()


def test_conditions_are_dropped_as_often_as_the_paper_says_and_independently(
    batch: Batch, tiny: Tiny
) -> None:
    small = Stream(tiny.index, split="train", seed=0, context=CONTEXT, view=View(side=8)).read(0, 8)
    text = _recorded(PriorObjective(diffusion=X0, embedding_dim=16), batch, slice(-1, None))[0]
    assert 0.08 < text.mean() < 0.12
    text = _recorded(ARPriorObjective(), batch, slice(-1, None))[0]
    assert 0.08 < text.mean() < 0.12
    image, caption = _recorded(DecoderObjective(diffusion=HYBRID), small, slice(-2, None), 2000)
    # 45 % both kept, 5 % text only, 45 % image only, 5 % neither: within 3 standard errors of 16,000 draws.
    for drops_image, share in ((False, 0.45), (True, 0.05)):
        for drops_caption in (False, True):
            found = ((image == drops_image) & (caption == drops_caption)).mean()
            assert abs(found - share) < 3 * (share * (1 - share) / 16_000) ** 0.5


def test_upsamplers_are_trained_at_every_level_of_noise_and_told_it(tiny: Tiny) -> None:
    small = Stream(tiny.index, split="train", seed=0, context=CONTEXT, view=View(side=8)).read(0, 8)
    objective = UpsamplerObjective(diffusion=HYBRID, scale=4, noise_conditioning=True, text=True)
    process = HYBRID.build()
    assert small.image_u8 is not None
    pixels_m11 = torch.from_numpy(small.image_u8).float() / 127.5 - 1
    clean = objective.low_resolution(pixels_m11, Draws(0, Purpose.TRAINING, []))
    levels: list[Tensor] = []
    dropped: list[Tensor] = []
    noise: list[Tensor] = []

    def network(x_t: Tensor, _: Tensor, low_res: Tensor, level: Tensor, *text: Tensor) -> Tensor:
        levels.append(level)
        dropped.append(text[-1])
        kept = process.noise_to_level(clean, level, torch.zeros_like(clean))
        spread = process.noise_to_level(torch.zeros_like(clean), level, torch.ones_like(clean))
        noise.append((low_res - kept) / spread.clamp(min=1e-6))
        return torch.cat([x_t, x_t], 1)

    for start in range(250):
        objective.losses(network, small, Draws(0, Purpose.TRAINING, range(8 * start, 8 * start + 8)))
    # Uniform on [0, 1): mean 1/2 and variance 1/12, to about four standard errors of 2,000 draws.
    level = torch.cat(levels)
    assert 0 <= float(level.min()) < 0.01 and 0.99 < float(level.max()) < 1
    assert level.mean().item() == pytest.approx(1 / 2, abs=0.026)
    assert level.var().item() == pytest.approx(1 / 12, abs=0.007)
    # What was added is standard normal noise of just that level.
    added = torch.cat(noise)[level > 0.001]
    assert added.mean().item() == pytest.approx(0, abs=0.02)
    assert added.std().item() == pytest.approx(1, abs=0.02)
    assert torch.cat(dropped).float().mean().item() == pytest.approx(0.1, abs=0.027)


def test_draws_belong_to_seed_purpose_and_position() -> None:
    def numbers(seed: int, purpose: Purpose, positions: list[int]) -> Tensor:
        return Draws(seed, purpose, positions).normal((5,))

    base = numbers(0, Purpose.TRAINING, [3, 4])
    assert torch.equal(numbers(0, Purpose.TRAINING, [4])[0], base[1])
    others = [(1, Purpose.TRAINING), (0, Purpose.VALIDATION)]
    assert all(not torch.equal(numbers(s, p, [3, 4]), base) for s, p in others)
    assert not torch.equal(base[0], base[1])


def test_an_image_stage_without_pixels_says_so(tiny: Tiny) -> None:
    blind = Stream(tiny.index, split="train", seed=0, context=CONTEXT).read(0, 2)
    objective = DecoderObjective(diffusion=HYBRID)
    refuse: Callable[..., Tensor] = lambda *_: torch.zeros(0)  # noqa: E731
    with pytest.raises(ValueError, match="opened without a view"):
        objective.losses(refuse, blind, Draws(0, Purpose.TRAINING, [0, 1]))
