import pytest
import torch

from tests.models.tiny import DECODER, prompts, randomised, unit

NETWORK = randomised(DECODER.build())
X, T = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 30, 60, 99])
TOKENS, MASK = prompts([6, 3, 1, 4])
DROP = torch.tensor([True, False, True, False])


def test_conditions_encoded_once_give_what_the_forward_gives() -> None:
    z = unit(4)
    conditioning = NETWORK.condition(z, TOKENS, MASK)
    assert conditioning.context.shape == (4, 16, 6 + 4)
    out = NETWORK.denoise(X, T, **conditioning.as_kwargs())
    assert out.shape == (4, 6, 16, 16)
    assert torch.equal(out, NETWORK(X, T, z, TOKENS, MASK))


def test_a_dropped_embedding_is_not_seen_and_the_text_still_is() -> None:
    one, two = (NETWORK(X, T, unit(4, seed), TOKENS, MASK, drop_image=DROP) for seed in (1, 2))
    assert torch.equal(one[DROP], two[DROP])
    assert not torch.allclose(one[~DROP], two[~DROP], atol=1e-6)
    other_text = NETWORK(X, T, unit(4, 1), (TOKENS + 1) % 50, MASK, drop_image=DROP)
    assert not torch.allclose(one[DROP], other_text[DROP], atol=1e-6)


def test_a_dropped_caption_is_the_empty_one() -> None:
    dropped = NETWORK(X, T, unit(4), TOKENS, MASK, drop_text=DROP)
    empty = NETWORK(X, T, unit(4), TOKENS, MASK & ~DROP[:, None])
    assert torch.equal(dropped, empty)
    assert not torch.allclose(dropped[DROP], NETWORK(X, T, unit(4), TOKENS, MASK)[DROP], atol=1e-6)


def test_every_parameter_is_trained() -> None:
    network = randomised(DECODER.build())
    network(X, T, unit(4), TOKENS, MASK, DROP, ~DROP).pow(2).mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_an_embedding_of_another_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="image embeddings of width 16, got 12"):
        NETWORK(X, T, unit(4, dim=12), TOKENS, MASK)
