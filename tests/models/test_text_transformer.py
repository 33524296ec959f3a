import pytest
import torch

from tests.models.tiny import CONTEXT, DECODER, prompts, randomised

NETWORK = randomised(DECODER.text.build())


def test_ids_behind_the_prompt_are_not_read() -> None:
    tokens, mask = prompts([3, 0, 6])
    other = torch.where(mask, tokens, torch.full_like(tokens, 10**6))
    assert torch.equal(NETWORK(tokens, mask), NETWORK(other, mask))


def test_short_input_is_padded_to_the_context() -> None:
    tokens, mask = prompts([3, 2])
    out = NETWORK(tokens[:, :3], mask[:, :3])
    assert out.shape == (2, CONTEXT, 16)
    torch.testing.assert_close(out, NETWORK(tokens, mask))


def test_the_first_position_sees_the_last_token_and_the_length() -> None:
    tokens, mask = prompts([5])
    changed = tokens.clone()
    changed[0, 4] = (tokens[0, 4] + 1) % 50
    out = NETWORK(tokens, mask)
    assert not torch.allclose(out[:, 0], NETWORK(changed, mask)[:, 0], atol=1e-6)
    assert not torch.allclose(out[:, 0], NETWORK(*prompts([4]))[:, 0], atol=1e-6)


def test_a_prompt_past_the_context_and_a_foreign_id_are_refused() -> None:
    with pytest.raises(ValueError, match="the context is 6 tokens, got 7"):
        NETWORK(torch.zeros(1, 7, dtype=torch.long), torch.ones(1, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 0 and below vocab_size=50, got -1"):
        NETWORK(torch.tensor([[50, -1]]), torch.tensor([[True, True]]))
    with pytest.raises(ValueError, match="below vocab_size=50, got 50"):
        NETWORK(torch.full((1, 2), 50), torch.ones(1, 2, dtype=torch.bool))
