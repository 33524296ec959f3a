"""Pre-norm transformer, with the parameter names of CLIP, GLIDE and Karlo (`resblocks.0.attn.c_qkv.weight`).

B batch, L sequence length, W width.
"""

from collections.abc import Sequence
from typing import final

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


@final
class LayerCache:
    """Keys and values of one layer at the positions so far, which a causal network need not compute again.

    They lie in `storage`, which has room for positions to come.  For sampling: no gradient goes through it.
    """

    def __init__(self, storage: Float[Tensor, "2 B heads room c"], length: int = 0) -> None:
        """`length`: positions that are in `storage` already; a later cache over it may begin there again."""
        self._keys, self._values = storage
        self.length = length

    def extend(
        self, keys: Float[Tensor, "B heads n c"], values: Float[Tensor, "B heads n c"]
    ) -> tuple[Float[Tensor, "B heads m c"], Float[Tensor, "B heads m c"]]:
        """Take in the next n positions; returns those of all m so far."""
        stop = self.length + keys.shape[2]
        self._keys[:, :, self.length : stop] = keys
        self._values[:, :, self.length : stop] = values
        self.length = stop
        return self._keys[:, :, :stop], self._values[:, :, :stop]


class SelfAttention(nn.Module):
    """Multi-head self-attention; the fused projection holds q, k and v of one head side by side."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.c_qkv = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "B L W"],
        mask: Bool[Tensor, "#B 1 L M"] | None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B L W"]:
        b, length, width = x.shape
        q, k, v = self.c_qkv(x).reshape(b, length, self.heads, -1).transpose(1, 2).chunk(3, dim=-1)
        if cache is not None:
            k, v = cache.extend(k, v)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.c_proj(attended.transpose(1, 2).reshape(b, length, width))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "B L W"]) -> Float[Tensor, "B L W"]:
        return self.c_proj(F.gelu(self.c_fc(x)))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads, dropout)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B L W"],
        mask: Bool[Tensor, "#B 1 L M"] | None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "B L W"]:
        x = x + self.drop(self.attn(self.ln_1(x), mask, cache))
        return x + self.drop(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """`layers` blocks, initialised as CLIP's text encoder (2103.00020, section 2.4 and its code): residual
    projections are shrunk by sqrt(2 layers), so that the depth does not set the scale of the output."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([TransformerBlock(width, heads, dropout) for _ in range(layers)])
        for block in self.resblocks:
            assert isinstance(block, TransformerBlock)
            nn.init.normal_(block.attn.c_qkv.weight, std=width**-0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                nn.init.normal_(projection.weight, std=width**-0.5 * (2 * layers) ** -0.5)
            for linear in (block.attn.c_qkv, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(linear.bias)

    def cache_storage(self, x: Float[Tensor, "B n W"], room: int) -> Float[Tensor, "B layers 2 heads room c"]:
        """Where the keys and values of every layer go at up to `room` positions of sequences like `x`.

        The batch comes first, as in a condition of a network; `caches` takes it apart.
        """
        block = self.resblocks[0]
        assert isinstance(block, TransformerBlock)
        heads = block.attn.heads
        return x.new_zeros(len(x), len(self.resblocks), 2, heads, room, x.shape[2] // heads)

    @staticmethod
    def caches(storage: Float[Tensor, "B layers 2 heads room c"], length: int = 0) -> list[LayerCache]:
        """One cache a layer over what `cache_storage` gave, the first `length` positions being there."""
        return [LayerCache(layer, length) for layer in storage.permute(1, 2, 0, 3, 4, 5)]

    def forward(
        self,
        x: Float[Tensor, "B L W"],
        mask: Bool[Tensor, "#B 1 L M"] | None = None,
        caches: Sequence[LayerCache] | None = None,
    ) -> Float[Tensor, "B L W"]:
        """`mask`: True where a query (row) may attend to a key (column); None: everywhere.

        With `caches`, one a layer, `x` goes on where the last call ended, and the M keys are those of all
        positions so far, x's own among them.  Without, M is L.
        """
        for i, block in enumerate(self.resblocks):
            x = block(x, mask, caches[i] if caches is not None else None)
        return x
