"""GLIDE's text encoder (2112.10741, section 3.1; details from its released code)."""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.config_text import TextTransformerConfig
from models.transformer import Transformer


@final
class TextTransformer(nn.Module):
    """Non-causal transformer over token ids.

    Every position takes part: one past the prompt carries a learned padding embedding of its own instead of a
    token, so the network reads the prompt's length, and an empty prompt (mask all False) is a null condition
    that training by dropping the caption learns.
    """

    def __init__(self, config: TextTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context, config.width))
        self.padding_embedding = nn.Parameter(torch.empty(config.context, config.width))
        self.transformer = Transformer(config.width, config.layers, config.heads)
        self.final_ln = nn.LayerNorm(config.width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.padding_embedding, std=0.02)

    def forward(self, tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B context W"]:
        """Encode token ids; `mask` is True on the prompt, False on padding, whose ids are not read.

        Shorter input is padded to the context.  Raises `ValueError` on a prompt past the context or an id
        outside the vocabulary.
        """
        tokens, mask = fit_to_context(
            tokens, mask, self.config.context, self.config.vocab_size, "TextTransformer"
        )
        x = self.token_embedding(tokens) + self.positional_embedding
        x = torch.where(mask[..., None], x, self.padding_embedding)
        return self.final_ln(self.transformer(x))


def fit_to_context(
    tokens: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"], context: int, vocab_size: int, where: str
) -> tuple[Int[Tensor, "B context"], Bool[Tensor, "B context"]]:
    """Pad to `context` positions; masked ids become 0, so that a foreign padding id cannot be looked up."""
    length = tokens.shape[1]
    if length > context:
        raise ValueError(f"{where}: the context is {context} tokens, got {length}; truncate the prompt first")
    tokens = F.pad(tokens.masked_fill(~mask, 0), (0, context - length))
    # A lookup past the table is a bare IndexError on CPU and a poisoned context on CUDA.  There the check
    # would wait for the device, so it is left to the embedding's own assertion.
    if tokens.device.type == "cpu" and tokens.numel():
        least, most = (int(bound) for bound in tokens.aminmax())
        if least < 0 or most >= vocab_size:
            raise ValueError(
                f"{where}: token ids must be at least 0 and below vocab_size={vocab_size}, got "
                f"{least if least < 0 else most}; tokenizer and configuration disagree"
            )
    return tokens, F.pad(mask, (0, context - length), value=False)
