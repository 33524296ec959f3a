"""MiniLM-L6, the sentence encoder (Wang et al. 2020; Reimers and Gurevych 2019), as its package carries it.

A post-norm BERT encoder in plain torch with the package's parameter names.  Importing it costs torch alone:
the transformers library would add seconds and 400 MB to each actor for these sixty lines.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, LAYERS, CONTEXT = 384, 12, 6, 256
_VOCABULARY, _POSITIONS, _INNER, _EPSILON = 30_522, 512, 1_536, 1e-12


class MiniLM(nn.Module):
    """Mean of the last layer's states over a caption's tokens, not normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(_VOCABULARY, WIDTH)
        self.positions = nn.Embedding(_POSITIONS, WIDTH)
        self.types = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=_EPSILON)
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))

    def forward(
        self, ids: Int[Tensor, "b length"], mask: Bool[Tensor, "b length"] | None = None
    ) -> Float[Tensor, "b 384"]:
        """Embed token ids; `mask` is true where a token counts (None: everywhere)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(places) + self.types.weight[0])
        attention = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, attention)
        if mask is None:
            return x.mean(dim=1)
        weights = mask[..., None].to(x.dtype)
        return (x * weights).sum(dim=1) / weights.sum(dim=1)

    @staticmethod
    def from_safetensors(path: Path) -> MiniLM:
        """Read the weights under BERT's own names."""
        from safetensors.torch import load_file

        file = load_file(path)
        network = MiniLM()
        state = {
            "words.weight": file["embeddings.word_embeddings.weight"],
            "positions.weight": file["embeddings.position_embeddings.weight"],
            "types.weight": file["embeddings.token_type_embeddings.weight"],
            "norm.weight": file["embeddings.LayerNorm.weight"],
            "norm.bias": file["embeddings.LayerNorm.bias"],
        }
        names = {
            "query": "attention.self.query",
            "key": "attention.self.key",
            "value": "attention.self.value",
            "output": "attention.output.dense",
            "norm_1": "attention.output.LayerNorm",
            "inner": "intermediate.dense",
            "outer": "output.dense",
            "norm_2": "output.LayerNorm",
        }
        for i in range(LAYERS):
            for ours, theirs in names.items():
                for part in ("weight", "bias"):
                    state[f"layers.{i}.{ours}.{part}"] = file[f"encoder.layer.{i}.{theirs}.{part}"]
        network.load_state_dict(state)
        return network.eval()


class _Layer(nn.Module):
    """Self-attention and a GELU layer, each followed by its residual and LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm_1 = nn.LayerNorm(WIDTH, eps=_EPSILON)
        self.inner, self.outer = nn.Linear(WIDTH, _INNER), nn.Linear(_INNER, WIDTH)
        self.norm_2 = nn.LayerNorm(WIDTH, eps=_EPSILON)

    def forward(self, x: Float[Tensor, "b length 384"], mask: Tensor | None) -> Float[Tensor, "b length 384"]:
        q, k, v = (
            part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm_1(x + self.output(attended.transpose(1, 2).flatten(2)))
        return self.norm_2(x + self.outer(functional.gelu(self.inner(x))))
