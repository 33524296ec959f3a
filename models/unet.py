"""ADM U-Net (Dhariwal & Nichol, 2105.05233) with the text pathway of GLIDE (2112.10741).

Parameter names are OpenAI's (`input_blocks.3.0.in_layers.2.weight`), so one state dict compares it with the
public implementations.  Without middle attention the middle block has two entries, numbered 0 and 1.
"""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.config import UNetConfig
from models.layers import (
    AttentionBlock,
    CrossAttentionBlock,
    Downsample,
    GroupNorm32,
    ResBlock,
    TimestepSequential,
    Upsample,
    timestep_embedding,
    zero_init,
)


@final
class UNet(nn.Module):
    """Maps x_t and the timestep to a raw output of `config.out_channels`, at any size `config.stride`
    divides."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        c, patch = config, config.patch_size
        embedding = self.embedding_channels
        self.time_embed = nn.Sequential(
            nn.Linear(c.model_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        first = c.model_channels * c.channel_mult[0]
        stem = nn.Conv2d(c.in_channels * patch**2, first, 3, padding=1)
        self.input_blocks = nn.ModuleList([TimestepSequential(stem)])
        skips = self._add_input_blocks(first)
        middle = [self._res_block(skips[-1], skips[-1]), self._res_block(skips[-1], skips[-1])]
        attention = [self._attention(skips[-1])] if c.middle_attention else []
        self.middle_block = TimestepSequential(middle[0], *attention, middle[1])
        self.output_blocks = nn.ModuleList()
        self._add_output_blocks(skips)
        self.out = nn.Sequential(
            GroupNorm32(c.norm_groups, first),
            nn.SiLU(),
            zero_init(nn.Conv2d(first, c.out_channels * patch**2, 3, padding=1)),
        )

    @property
    def embedding_channels(self) -> int:
        """Width of the timestep embedding, to which a caller may add its own conditions."""
        return 4 * self.config.model_channels

    def forward(
        self,
        x_t: Float[Tensor, "B in_channels H W"],
        t: Int[Tensor, " B"] | Float[Tensor, " B"],
        *,
        time_shift: Float[Tensor, "B E"] | None = None,
        context: Float[Tensor, "B width L"] | None = None,
        context_mask: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B out_channels H W"]:
        """`time_shift` is added to the timestep embedding; `context` is what the attention blocks also attend
        to, `context_mask` False where they may not (None: they may everywhere, as in GLIDE).

        Raises `ValueError` when a side is not divisible by `config.stride`, or a context comes or lacks
        against the configuration.
        """
        self._check(x_t, context)
        embedding = self.time_embed(timestep_embedding(t, self.config.model_channels).to(x_t.dtype))
        if time_shift is not None:
            embedding = embedding + time_shift.to(embedding)
        h = F.pixel_unshuffle(x_t, self.config.patch_size) if self.config.patch_size > 1 else x_t
        # As convolutions want it on a CPU and on tensor cores; every layer hands the layout on.
        h = h.contiguous(memory_format=torch.channels_last)
        skips = []
        for block in self.input_blocks:
            h = block(h, embedding, context, context_mask)
            skips.append(h if self.config.skip_scale == 1 else h * self.config.skip_scale)
        h = self.middle_block(h, embedding, context, context_mask)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding, context, context_mask)
        h = self.out(h.to(x_t.dtype))
        h = F.pixel_shuffle(h, self.config.patch_size) if self.config.patch_size > 1 else h
        return h.contiguous()

    # ---- construction ----------------------------------------------------------------------------------

    def _add_input_blocks(self, channels: int) -> list[int]:
        """Appends the way down; returns the channels of every skip connection, in order."""
        c, skips = self.config, [channels]
        for level, (side, mult, blocks) in enumerate(self._levels):
            if level > 0 or c.efficient_order:
                down = Downsample(channels, learned=not c.resblock_updown)
                self.input_blocks.append(TimestepSequential(self._resampler(channels, down)))
                skips.append(channels)
            for _ in range(blocks):
                layers: list[nn.Module] = [self._res_block(channels, c.model_channels * mult)]
                channels = c.model_channels * mult
                if side in c.attention_resolutions:
                    layers.append(self._attention(channels))
                self.input_blocks.append(TimestepSequential(*layers))
                skips.append(channels)
        return skips

    def _add_output_blocks(self, skips: list[int]) -> None:
        """Appends the way up.  In the efficient order no block is left at the stem's side for its skip."""
        c, skips = self.config, list(skips)
        channels = skips[-1]
        for level, (side, mult, blocks) in reversed(list(enumerate(self._levels))):
            for i in range(blocks + 1):
                layers: list[nn.Module] = [self._res_block(channels + skips.pop(), c.model_channels * mult)]
                channels = c.model_channels * mult
                if side in c.attention_resolutions:
                    layers.append(self._attention(channels))
                if i == blocks and (level > 0 or c.efficient_order):
                    up = Upsample(channels, learned=not c.resblock_updown)
                    layers.append(self._resampler(channels, up))
                self.output_blocks.append(TimestepSequential(*layers))

    @property
    def _levels(self) -> list[tuple[int, int, int]]:
        """(side, channel multiple, residual blocks) of each."""
        c = self.config
        return list(zip(c.level_sides, c.channel_mult, c.level_blocks, strict=True))

    def _res_block(self, channels: int, out_channels: int, resample: nn.Module | None = None) -> ResBlock:
        return ResBlock(
            channels,
            self.embedding_channels,
            out_channels,
            dropout=self.config.dropout,
            scale_shift_norm=self.config.use_scale_shift_norm,
            norm_groups=self.config.norm_groups,
            resample=resample,
        )

    def _resampler(self, channels: int, resample: Upsample | Downsample) -> nn.Module:
        return self._res_block(channels, channels, resample) if self.config.resblock_updown else resample

    def _attention(self, channels: int) -> AttentionBlock | CrossAttentionBlock:
        c = self.config
        sizes = {"head_channels": c.num_head_channels, "norm_groups": c.norm_groups}
        if c.self_attention:
            return AttentionBlock(channels, **sizes, encoder_channels=c.encoder_channels)
        assert c.encoder_channels is not None  # validated
        return CrossAttentionBlock(channels, **sizes, encoder_channels=c.encoder_channels)

    def _check(self, x_t: Tensor, context: Tensor | None) -> None:
        c = self.config
        height, width = x_t.shape[2:]
        if x_t.shape[1] != c.in_channels:
            raise ValueError(f"UNet: expected {c.in_channels} input channels, got {x_t.shape[1]}")
        if height % c.stride or width % c.stride:
            raise ValueError(
                f"UNet: sides must be divisible by {c.stride} (patch {c.patch_size}, {len(c.channel_mult)} "
                f"levels), got {height}x{width}; pad or crop the input"
            )
        if (context is None) != (c.encoder_channels is None):
            wants = "no context" if c.encoder_channels is None else f"a context of width {c.encoder_channels}"
            raise ValueError(
                f"UNet: expected {wants}, got {'none' if context is None else tuple(context.shape)}"
            )
        if context is not None and context.shape[1] != c.encoder_channels:
            raise ValueError(
                f"UNet: expected a context [batch, {c.encoder_channels}, length], got {tuple(context.shape)}"
            )
