"""Building blocks of the ADM U-Net, with OpenAI's parameter names and numerics.

B batch, C channels, H W sides, L sequence length, E width of the timestep embedding.
"""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def timestep_embedding(
    t: Int[Tensor, " B"] | Float[Tensor, " B"], dim: int, *, max_period: float = 10000.0
) -> Float[Tensor, "B {dim}"]:
    """Sinusoids of the timestep, cosines first (1706.03762, section 3.5, in OpenAI's order); `dim` is
    even."""
    half = dim // 2
    frequencies = torch.exp(
        -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    )
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def zero_init(module: ModuleT) -> ModuleT:
    """Zero a module's parameters: a residual branch that ends in it starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class GroupNorm32(nn.GroupNorm):
    """GroupNorm computed in float32 whatever the precision around it: its sums overflow in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


class Upsample(nn.Module):
    """Nearest neighbour, twice the side; with a learned 3x3 convolution after it if `learned`."""

    def __init__(self, channels: int, *, learned: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if learned else None

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C 2*H 2*W"]:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return x if self.conv is None else self.conv(x)


class Downsample(nn.Module):
    """Half the side, by a strided 3x3 convolution if `learned`, else by averaging."""

    def __init__(self, channels: int, *, learned: bool) -> None:
        super().__init__()
        self.op: nn.Module = (
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) if learned else nn.AvgPool2d(2)
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H//2 W//2"]:
        return self.op(x)


class UpsampledConv2d(nn.Conv2d):
    """A 3x3 convolution of the nearest-neighbour upsampling of its input, at 4/9 of its cost.

    Of the nine pixels under the kernel only four differ, which four being a matter of the output's row and
    column, even or odd: four 2x2 kernels of summed weights over the small input give the same numbers.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B out 2*H 2*W"]:
        height, width = x.shape[2:]
        # [parity, tap of 2, tap of 3]
        taps = self.weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        kernels = torch.einsum("pia,qjb,ocab->pqocij", taps, taps, self.weight).flatten(0, 2)
        bias = None if self.bias is None else self.bias.repeat(4)
        every = F.conv2d(F.pad(x, (1, 1, 1, 1)), kernels, bias).permute(0, 2, 3, 1)
        parts = every.unflatten(3, (2, 2, -1))  # [B, row, column, parity of the row, of the column, out]

        def row(p: int) -> Tensor:
            columns = [parts[:, p : p + height, q : q + width, p, q] for q in (0, 1)]
            return torch.stack(columns, dim=3).flatten(2, 3)

        return torch.stack([row(0), row(1)], dim=2).flatten(1, 2).permute(0, 3, 1, 2)


class Pointwise(nn.Conv1d):
    """A 1x1 convolution, its parameters shaped as OpenAI's, over a sequence with channels last."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "B L C"]) -> Float[Tensor, "B L out"]:
        return F.linear(x, self.weight[:, :, 0], self.bias)


class ResBlock(nn.Module):
    """ADM's residual block; with `resample` it also changes the side, BigGAN's way (2105.05233, section 3).

    `scale_shift_norm`: the timestep scales and shifts the second normalisation (AdaGN, eq. in section 3.1)
    instead of being added before it.
    """

    def __init__(
        self,
        channels: int,
        embedding_channels: int,
        out_channels: int,
        *,
        dropout: float,
        scale_shift_norm: bool,
        norm_groups: int,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift_norm = scale_shift_norm
        self.resample = resample
        self.upsamples = isinstance(resample, Upsample)
        convolution: nn.Module = nn.Conv2d(channels, out_channels, 3, padding=1)
        if self.upsamples:
            convolution = UpsampledConv2d(channels, out_channels)
        self.in_layers = nn.Sequential(GroupNorm32(norm_groups, channels), nn.SiLU(), convolution)
        self.emb_layers = nn.Sequential(
            nn.SiLU(),
            nn.Linear(embedding_channels, out_channels * (2 if scale_shift_norm else 1)),
        )
        self.out_layers = nn.Sequential(
            GroupNorm32(norm_groups, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = out_channels == channels
        self.skip_connection: nn.Module = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(
        self, x: Float[Tensor, "B C H W"], embedding: Float[Tensor, "B E"]
    ) -> Float[Tensor, "B out h w"]:
        norm, _, convolution = self.in_layers
        h = _fresh_silu(norm(x))
        if self.resample is not None:
            h, x = h if self.upsamples else self.resample(h), self.resample(x)
        h = convolution(h)
        shift = self.emb_layers(embedding).to(h.dtype)[:, :, None, None]
        if self.scale_shift_norm:
            scale, shift = shift.chunk(2, dim=1)
            h = torch.addcmul(shift, self.out_layers[0](h), 1 + scale)
            h = self.out_layers[2:](_fresh_silu(h))
        else:
            h = self.out_layers(h + shift)
        return self.skip_connection(x) + h


def _fresh_silu(x: Tensor) -> Tensor:
    """SiLU of what nobody else holds: in its place, where no gradient needs what was there."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class AttentionBlock(nn.Module):
    """Self-attention over the positions of a feature map, heads split before q, k and v (OpenAI's legacy
    order).

    With `encoder_channels` a context sequence is projected and prepended to keys and values (GLIDE,
    2112.10741, section 3.1): one softmax over text and image positions together, no separate cross-attention.
    """

    def __init__(
        self, channels: int, *, head_channels: int, norm_groups: int, encoder_channels: int | None
    ) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = GroupNorm32(norm_groups, channels)
        self.qkv = Pointwise(channels, 3 * channels)
        self.encoder_kv = None if encoder_channels is None else Pointwise(encoder_channels, 2 * channels)
        self.proj_out = zero_init(Pointwise(channels, channels))

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        context: Float[Tensor, "B width L"] | None,
        context_mask: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """`context_mask`: True where the context may be attended to; None: everywhere."""
        flat, mask = self.norm(x).flatten(2).transpose(1, 2), None
        q, k, v = _split_heads(self.qkv(flat), self.heads, 3)
        if self.encoder_kv is not None and context is not None:
            context_k, context_v = _split_heads(self.encoder_kv(context.transpose(1, 2)), self.heads, 2)
            k, v = torch.cat([context_k, k], dim=2), torch.cat([context_v, v], dim=2)
            if context_mask is not None:
                mask = F.pad(context_mask, (0, flat.shape[1]), value=True)[:, None, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = self.proj_out(attended.transpose(1, 2).flatten(2))
        return x + out.transpose(1, 2).reshape(x.shape)


class CrossAttentionBlock(nn.Module):
    """Attention of a feature map's positions to the context alone, without self-attention: what Imagen's
    largest network can afford (2205.11487, section 2.5)."""

    def __init__(self, channels: int, *, head_channels: int, norm_groups: int, encoder_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = GroupNorm32(norm_groups, channels)
        self.q = Pointwise(channels, channels)
        self.encoder_kv = Pointwise(encoder_channels, 2 * channels)
        self.proj_out = zero_init(Pointwise(channels, channels))

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        context: Float[Tensor, "B width L"],
        context_mask: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """`context_mask`: True where the context may be attended to; a sample without any such place is left
        as it is."""
        flat = self.norm(x).flatten(2).transpose(1, 2)
        (q,) = _split_heads(self.q(flat), self.heads, 1)
        k, v = _split_heads(self.encoder_kv(context.transpose(1, 2)), self.heads, 2)
        if context_mask is None:
            context_mask = torch.ones_like(context[:, 0], dtype=torch.bool)
        any_text = context_mask.any(dim=1)[:, None, None]
        # A softmax over nothing would be NaN: attend everywhere, then take nothing of it.
        mask = (context_mask[:, None] | ~any_text)[:, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = self.proj_out(attended.transpose(1, 2).flatten(2)) * any_text
        return x + out.transpose(1, 2).reshape(x.shape)


def _split_heads(x: Tensor, count: int, parts: int) -> tuple[Tensor, ...]:
    """[B, L, heads * parts * c] -> `parts` of [B, heads, L, c], views.

    Their last dimension is contiguous, as the fused kernels need it; without that torch falls back to one
    that holds the whole attention matrix, 2.5 to 4 times slower on a CPU at 64 to 1,024 positions.
    """
    return x.unflatten(2, (count, -1)).transpose(1, 2).chunk(parts, dim=3)


class TimestepSequential(nn.Sequential):
    """A sequence whose blocks get the timestep embedding or the context if they take one."""

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "B C H W"],
        embedding: Float[Tensor, "B E"],
        context: Float[Tensor, "B width L"] | None = None,
        context_mask: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B out h w"]:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, embedding)
            elif isinstance(layer, AttentionBlock | CrossAttentionBlock):
                x = layer(x, context, context_mask)
            else:
                x = layer(x)
        return x
