"""Pre-norm transformer, with the parameter names of CLIP, GLIDE and Karlo (`resblocks.0.attn.c_qkv.weight`).

B batch, L sequence length, W width.
"""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention; the fused projection holds q, k and v of one head side by side."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.c_qkv = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B L W"], mask: Bool[Tensor, "#B 1 L L"] | None
    ) -> Float[Tensor, "B L W"]:
        b, length, width = x.shape
        q, k, v = self.c_qkv(x).reshape(b, length, self.heads, -1).transpose(1, 2).chunk(3, dim=-1)
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
        self, x: Float[Tensor, "B L W"], mask: Bool[Tensor, "#B 1 L L"] | None
    ) -> Float[Tensor, "B L W"]:
        x = x + self.drop(self.attn(self.ln_1(x), mask))
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

    def forward(
        self, x: Float[Tensor, "B L W"], mask: Bool[Tensor, "#B 1 L L"] | None = None
    ) -> Float[Tensor, "B L W"]:
        """`mask`: True where a query (row) may attend to a key (column); None: everywhere."""
        for block in self.resblocks:
            x = block(x, mask)
        return x
