import dataclasses

import pytest
import torch

from models.config import DecoderConfig
from models.config_text import TextFeaturesConfig
from models.diffusion.guidance import Guided
from models.text_features import TextFeatures
from tests.models.tiny import CONTEXT, DECODER, DIM, prompts, randomised, unit

C, POOLED = 12, 10
FEATURES = TextFeaturesConfig(features_dim=C, context=CONTEXT, width=16, time_width=64, pooled_dim=POOLED)
OUTER = dataclasses.replace(
    DECODER, vocab_size=None, text_layers=None, text_heads=None, text_features_dim=C, text_pooled_dim=POOLED
)
GLIDE = dataclasses.replace(DECODER, embedding_dim=None)
IMAGEN = dataclasses.replace(OUTER, embedding_dim=None, text_pooled_dim=None)

G = torch.Generator().manual_seed(0)
X, T = torch.randn(4, 3, 16, 16, generator=G), torch.tensor([0, 30, 60, 99])
TEXT, VECTOR = torch.randn(4, CONTEXT, C, generator=G), torch.randn(4, POOLED, generator=G)
TOKENS, MASK = prompts([6, 3, 1, 4])
DROP = torch.tensor([True, False, True, False])


def text_features(**changes: object) -> TextFeatures:
    return randomised(dataclasses.replace(FEATURES, **changes).build())  # type: ignore[arg-type]


def test_what_stands_on_padding_is_not_seen() -> None:
    noise = torch.where(MASK[..., None], TEXT, torch.inf)
    network = randomised(IMAGEN.build())
    assert torch.equal(network(X, T, None, TEXT * MASK[..., None], MASK), network(X, T, None, TEXT, MASK))
    clean, other = (text_features(pooled_dim=None)(text, MASK) for text in (TEXT, noise))
    assert torch.equal(clean.time_shift, other.time_shift)
    assert clean.context_mask is not None and torch.equal(clean.context_mask, MASK)


def test_a_shorter_text_is_padded_to_the_context() -> None:
    network = randomised(OUTER.build())
    short = network(X, T, unit(4), TEXT[:, :3], MASK[:, :3], text_pooled=VECTOR)
    long = network(X, T, unit(4), TEXT, MASK & (torch.arange(CONTEXT) < 3), text_pooled=VECTOR)
    torch.testing.assert_close(short, long)


def test_a_dropped_text_is_a_learned_null() -> None:
    network = text_features()
    one, two = network(TEXT, MASK, VECTOR, DROP), network(TEXT.flip(1), ~MASK, -VECTOR, DROP)
    for name, value in one.as_kwargs().items():
        assert torch.equal(value[DROP], two.as_kwargs()[name][DROP])
    assert not torch.equal(one.context[~DROP], two.context[~DROP])
    one.context.pow(2).sum().backward()
    assert network.null.features.grad is not None and bool(network.null.features.grad.any())


def test_a_given_null_is_the_encoding_of_the_empty_prompt() -> None:
    network = text_features(null="given")
    empty, mask, vector = TEXT[:1, :2], torch.tensor([[True, False]]), VECTOR[:1]
    network = TextFeatures(network.config)
    with pytest.raises(ValueError, match="never given; call set_null"):
        network(TEXT, MASK, VECTOR, DROP)
    network.set_null(empty, mask, vector)
    dropped = network(TEXT, MASK, VECTOR, DROP).as_kwargs()
    for name, value in network(empty, mask, vector).as_kwargs().items():
        torch.testing.assert_close(dropped[name][DROP], value.expand_as(dropped[name][DROP]))
    assert {"null.features", "null.mask", "null.pooled"} <= network.state_dict().keys()
    with pytest.raises(ValueError, match="this network learned its null"):
        text_features().set_null(empty, mask, vector)


@pytest.mark.parametrize("config", [OUTER, GLIDE, IMAGEN], ids=["features", "text only", "both"])
def test_every_parameter_is_trained_and_guidance_takes_the_conditions(config: DecoderConfig) -> None:
    network = randomised(config.build())
    image = None if config.embedding_dim is None else unit(4)
    text, pooled = (TOKENS, None) if config.text_features_dim is None else (TEXT, VECTOR)
    conditions = (image, text, MASK, DROP, ~DROP, pooled if config.text_pooled_dim else None)
    network(X, T, *conditions).pow(2).mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []

    kwargs = network.condition(*conditions).as_kwargs()
    guided = Guided(network.denoise, kwargs, {k: v.flip(0) for k, v in kwargs.items()}, 2.0)
    assert guided(X, T).shape == (4, 6, 16, 16)


def test_a_text_only_decoder_draws_what_an_image_dropped_one_does_not() -> None:
    """GLIDE's decoder has no image tokens; of unCLIP's, text-only operation is its learned null embedding."""
    glide, both = randomised(GLIDE.build()), randomised(DECODER.build())
    assert glide.condition(None, TOKENS, MASK).context.shape == (4, 16, CONTEXT)
    everything = torch.ones(4, dtype=torch.bool)
    one, two = (both(X, T, unit(4, seed), TOKENS, MASK, everything) for seed in (1, 2))
    assert torch.equal(one, two)
    image_only = [both(X, T, unit(4), tokens, MASK, None, everything) for tokens in (TOKENS, TOKENS.flip(0))]
    assert torch.equal(*image_only)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (GLIDE, {"image": unit(4)}, "expected no image embeddings, got 16"),
        (DECODER, {}, "expected image embeddings of width 16, got none"),
        (GLIDE, {"text": TEXT}, r"expected token ids \[B, L\], got torch.float32"),
        (GLIDE, {"pooled": VECTOR}, "expected no pooled text vector, got one of width 10"),
        (IMAGEN, {"text": TOKENS}, r"expected features \[B, L, 12\], got torch.int64"),
        (IMAGEN, {"text": TEXT[..., 1:]}, r"\[batch, at most 6, 12\], got \(4, 6, 11\)"),
        (OUTER, {"image": unit(4), "text": TEXT}, "pooled vector of width 10, got None"),
    ],
)
def test_conditions_against_the_configuration_are_refused(
    config: DecoderConfig, changes: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config.build().condition(
            changes.get("image"), changes.get("text", TOKENS), MASK, text_pooled=changes.get("pooled")
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_features_dim": C}, "exactly one of vocab_size"),
        ({"vocab_size": None}, "exactly one of vocab_size"),
        ({"vocab_size": None, "text_features_dim": C}, "text_layers, text_heads must be null where features"),
        ({"text_pooled_dim": POOLED}, "text_pooled_dim must be null where token ids come in"),
        ({"text_layers": None}, "text_layers: expected a positive integer, got None"),
    ],
)
def test_a_decoder_has_one_source_of_text(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DECODER, **changes)  # type: ignore[arg-type]


def test_image_embeddings_are_scaled_as_configured() -> None:
    network = randomised(DECODER.build())
    raw = randomised(dataclasses.replace(DECODER, embedding_scale=1.0).build())
    torch.testing.assert_close(
        network(X, T, unit(4), TOKENS, MASK), raw(X, T, unit(4) * DIM**0.5, TOKENS, MASK)
    )
