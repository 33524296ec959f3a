"""What a training will cost, before it starts: parameters and floating point operations, counted on torch's
`meta` device, hence without memory or time to speak of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.config import ARPriorConfig, DecoderConfig, UpsamplerConfig, parameter_count
from pipelines.train.job import TrainedConfig
from pipelines.train.precision import Numerics

START_S = 20.0
"""From asking Ray Train for ranks to their first step, most of it importing torch (measured, 2 cores)."""

FLOP_PER_S = {
    ("cpu", "fp32"): 50e9,
    ("cpu", "bf16"): 150e9,
    ("cuda", "fp32"): 10e12,
    ("cuda", "bf16"): 100e12,
}
"""Of a CPU thread or a GPU in networks of this kind: measured for fp32 on CPUs, a rough guess elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of a network on one sample."""

    parameters: int
    forward_flop: int
    """Two per multiply-add."""

    def seconds(self, samples: int, numerics: Numerics, *, ranks: int, threads: int) -> float:
        """Of training on so many samples: a backward pass costs twice a forward pass."""
        units = ranks * (threads if numerics.device == "cpu" else 1)
        rate = FLOP_PER_S[numerics.device, numerics.precision] * units
        return START_S + 3 * self.forward_flop * samples / rate


def cost_of(network: TrainedConfig, crop: int | None = None) -> Cost:
    """Count for one sample, for upsamplers a crop of `crop` pixels."""
    with torch.device("meta"):
        built = network.build()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            built(*_example(network, crop))
    return Cost(parameters=parameter_count(built), forward_flop=counter.get_total_flops())


def _example(network: TrainedConfig, crop: int | None) -> tuple[Any, ...]:
    """What the network takes, for one sample."""
    t = torch.zeros(1, dtype=torch.long)
    if isinstance(network, UpsamplerConfig):
        side = crop or network.image_size
        low = side // network.scale
        level = torch.zeros(1) if network.noise_conditioning else None
        text = () if network.text is None else (torch.zeros(1, network.text.context, dtype=torch.long),)
        return torch.zeros(1, 3, side, side), t, torch.zeros(1, 3, low, low), level, *text
    embedding = None if network.embedding_dim is None else torch.zeros(1, network.embedding_dim)
    length = network.text_context
    tokens, mask = torch.zeros(1, length, dtype=torch.long), torch.ones(1, length, dtype=torch.bool)
    if isinstance(network, DecoderConfig):
        side = network.image_size
        return torch.zeros(1, 3, side, side), t, embedding, tokens, mask
    if isinstance(network, ARPriorConfig):
        return embedding, tokens, mask, embedding
    return embedding, t, tokens, mask, embedding
