import dataclasses

import pytest
import torch
import torch.nn.functional as F

from models.ar_prior import AutoregressivePrior
from models.config import ARPriorConfig, parameter_count
from models.diffusion.noise import SampleNoise
from models.sampling import StageSampling
from tests.models.tiny import AR_PRIOR, DIM, fitted_codec, prompts, randomised, unit

TABLE_3 = ARPriorConfig(
    embedding_dim=1024,
    components=319,
    vocab_size=50_257,
    text_context=256,
    text_width=2048,
    text_layers=24,
    text_heads=32,
    context=384,
    width=1664,
    layers=24,
    heads=26,
)
IMAGES = unit(64, 11)


def built(config: ARPriorConfig = AR_PRIOR) -> AutoregressivePrior:
    network = randomised(config.build(), scale=0.3)
    network.codec = fitted_codec(config, IMAGES, unit(64, 12))
    return network


NETWORK = built().requires_grad_(False)
TOKENS, MASK = prompts([6, 3, 0])
TEXT = unit(3, 5)
DOT = torch.tensor([3, 0, 15])


def test_the_papers_size_is_2_1_billion_parameters() -> None:
    """1.209 B in the text encoder's blocks, 0.103 B in its tokens, 0.798 B in the decoder's blocks."""
    with torch.device("meta"):
        network = TABLE_3.build()
    assert parameter_count(network) == pytest.approx(2.110e9, rel=0.03)
    assert parameter_count(network.transformer) == pytest.approx(0.798e9, rel=0.01)


def test_a_token_does_not_see_itself_or_what_follows() -> None:
    tokens, prefix = NETWORK.codec.encode(IMAGES[:3]), NETWORK.prefix(TOKENS, MASK, TEXT, DOT)
    base = NETWORK.logits(tokens, prefix)
    for position in range(AR_PRIOR.components):
        other = tokens.clone()
        other[:, position] = (other[:, position] + 1) % AR_PRIOR.buckets
        change = (NETWORK.logits(other, prefix) - base).abs().amax(dim=(0, 2))
        assert float(change[: position + 1].max()) == 0
        assert bool((change[position + 1 :] > 1e-4).all())


def test_cached_logits_are_the_logits() -> None:
    tokens, prefix = NETWORK.codec.encode(IMAGES[:3]), NETWORK.prefix(TOKENS, MASK, TEXT, DOT)
    whole = NETWORK.logits(tokens, prefix)
    room = prefix.shape[1] + AR_PRIOR.components - 1
    caches = NETWORK.transformer.caches(NETWORK.transformer.cache_storage(prefix, room))
    steps = [NETWORK._read(prefix, 1, caches)]
    for position in range(AR_PRIOR.components - 1):
        embedded = NETWORK._embed(tokens[:, position : position + 1], position)
        steps.append(NETWORK._read(embedded, 1, caches))
    assert float((torch.cat(steps, dim=1) - whole).abs().max()) < 1e-5


def test_losses_are_the_code_lengths_of_the_tokens_and_sum_to_one_as_probabilities() -> None:
    nats = NETWORK(IMAGES[:3], TOKENS, MASK, TEXT)
    dot = NETWORK.codec.encode_dot(IMAGES[:3], TEXT)
    tokens = NETWORK.codec.encode(IMAGES[:3])
    p = NETWORK.logits(tokens, NETWORK.prefix(TOKENS, MASK, TEXT, dot)).softmax(dim=-1)
    torch.testing.assert_close((-nats).exp(), p.gather(2, tokens[..., None])[..., 0])
    uniform = AR_PRIOR.build()
    uniform.codec.load_state_dict(NETWORK.codec.state_dict())
    expected = torch.tensor(float(AR_PRIOR.buckets)).log().expand(3, AR_PRIOR.components)
    torch.testing.assert_close(uniform(IMAGES[:3], TOKENS, MASK, TEXT), expected)


def test_every_condition_is_read_and_none_where_dropped() -> None:
    tokens = NETWORK.codec.encode(IMAGES[:3])
    given = {"text": TOKENS, "text_mask": MASK, "text_embedding": TEXT, "dot": DOT}
    changes = {
        "text": (TOKENS + 1) % 50,
        "text_mask": prompts([5, 2, 1])[1],
        "text_embedding": unit(3, 8),
        "dot": (DOT + 1) % AR_PRIOR.buckets,
    }
    drop = torch.tensor([True, False, False])
    base = NETWORK.logits(tokens, NETWORK.prefix(**given, drop=drop))
    for name, value in changes.items():
        logits = NETWORK.logits(tokens, NETWORK.prefix(**{**given, name: value}, drop=drop))
        different = (logits - base).abs().amax(dim=(1, 2))
        assert float(different[0]) == 0, name
        assert float(different[1]) > 1e-4, name


def sample(rows: slice = slice(None), *, guidance: float = 1.0, seed: int = 0) -> torch.Tensor:
    text, mask, embedding = (x[rows] for x in (TOKENS, MASK, TEXT))
    noise = SampleNoise(seed, len(text), first=rows.start or 0)
    return NETWORK.sample(text, mask, embedding, settings=StageSampling(guidance=guidance), noise=noise)


def test_samples_do_not_depend_on_the_batch_split_and_have_unit_norm() -> None:
    whole = sample(guidance=2.0)
    parts = torch.cat([sample(slice(0, 1), guidance=2.0), sample(slice(1, 3), guidance=2.0)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(3))
    assert not torch.allclose(sample(seed=1), sample(seed=2), atol=0.1)


def test_guidance_at_scale_1_is_the_conditional_branch_and_at_0_the_null() -> None:
    prefix, null = (NETWORK.prefix(TOKENS, MASK, TEXT, DOT, torch.full((3,), drop)) for drop in (False, True))
    uniform, both = SampleNoise(0, 3).uniform((AR_PRIOR.components,)), torch.cat([prefix, null])
    plain = NETWORK.sample_tokens(prefix, uniform)
    assert torch.equal(NETWORK.sample_tokens(both, uniform, guidance=1.0), plain)
    nulls = NETWORK.sample_tokens(null, uniform)
    assert torch.equal(NETWORK.sample_tokens(both, uniform, guidance=0.0), nulls)
    assert not torch.equal(plain, nulls)


def test_a_token_is_drawn_as_often_as_its_probability_says() -> None:
    count = 4000
    prefix = NETWORK.prefix(TOKENS[:1], MASK[:1], TEXT[:1], DOT[:1])
    uniform = ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]
    drawn = NETWORK.sample_tokens(prefix.expand(count, -1, -1), uniform)
    p = NETWORK.logits(drawn[:1], prefix)[0, 0].softmax(dim=-1)
    shares = torch.bincount(drawn[:, 0], minlength=AR_PRIOR.buckets) / count
    torch.testing.assert_close(shares, p, rtol=0, atol=1e-3)


def test_a_tiny_prior_learns_two_modes_and_their_weights() -> None:
    """The caption chooses the weights of the modes, 0.25 or 0.75: so are they sampled.

    The text embedding is at right angles to both, or the dot product would tell which mode it is.
    """
    config = dataclasses.replace(AR_PRIOR, components=2, context=3, buckets=16)
    torch.manual_seed(0)
    network = config.build()
    modes = F.normalize(torch.stack([torch.ones(DIM), torch.tensor([1.0, -1.0]).repeat(DIM // 2)]), dim=1)

    across = F.normalize(torch.tensor([[1.0, 1.0, -1.0, -1.0] * (DIM // 4)]), dim=1)

    def draw(count: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        caption = torch.randint(2, (count,), generator=g)
        second = torch.rand(count, generator=g) < torch.tensor([0.25, 0.75])[caption]
        z = modes[second.long()] + 0.02 * torch.randn(count, DIM, generator=g)
        return F.normalize(z, dim=1), caption[:, None] + 1, across.expand(count, DIM)

    g = torch.Generator().manual_seed(0)
    data = draw(2000, g)
    network.codec = fitted_codec(config, data[0], data[2])
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(120):
        z, caption, embedding = draw(256, g)
        loss = network(z, caption, torch.ones_like(caption, dtype=torch.bool), embedding).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    count, settings = 1000, StageSampling()
    for caption, expected in ((1, 0.25), (2, 0.75)):
        text = torch.full((count, 1), caption)
        sampled = network.eval().sample(
            text,
            torch.ones(count, 1, dtype=torch.bool),
            across.expand(count, DIM),
            settings=settings,
            noise=SampleNoise(caption, count),
        )
        cosines = sampled @ modes.T
        assert float((cosines.amax(dim=1) > 0.95).float().mean()) > 0.98
        # Three standard errors of 1,000 draws are 0.04, and the network has its own.
        assert float((cosines[:, 1] > 0.5).float().mean()) == pytest.approx(expected, abs=0.07)


def test_bad_input_says_expected_and_got() -> None:
    with pytest.raises(ValueError, match="text_embedding of width 16, got 8"):
        NETWORK.prefix(TOKENS, MASK, unit(3, dim=8), DOT)
    with pytest.raises(ValueError, match="the context is 6 tokens, got 7"):
        NETWORK.prefix(torch.ones(3, 7, dtype=torch.long), torch.ones(3, 7, dtype=torch.bool), TEXT, DOT)
    with pytest.raises(ValueError, match="embeddings of width 16, got 8"):
        NETWORK(unit(3, dim=8), TOKENS, MASK, unit(3, dim=8))
