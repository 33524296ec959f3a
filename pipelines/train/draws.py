"""Random numbers that belong to a sample of the stream, not to a batch or a rank."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor


class Purpose(IntEnum):
    """Separate streams of random numbers; values are part of what a seed means and never change."""

    TRAINING = 0
    VALIDATION = 1
    RANK = 2


def derived_seed(seed: int, purpose: Purpose, *path: int) -> int:
    """A 63-bit seed; neighbouring paths give unrelated ones."""
    state = np.random.SeedSequence(seed, spawn_key=(int(purpose), *path)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


@final
class Draws:
    """One generator per sample, seeded by (seed, purpose, position in the stream).

    What a sample draws therefore depends neither on how a global batch is cut into ranks and micro-batches
    nor on the device: everything is drawn on the CPU and moved.
    """

    def __init__(
        self,
        seed: int,
        purpose: Purpose,
        positions: Sequence[int] | np.ndarray,
        device: torch.device | str = "cpu",
        timestep_probabilities: Float64[Tensor, " steps"] | None = None,
    ) -> None:
        """`timestep_probabilities`: of `timesteps`; None: uniform."""
        self.device = torch.device(device)
        self._cumulative = None if timestep_probabilities is None else timestep_probabilities.cumsum(0)
        self.drawn_timesteps: Int[Tensor, " B"] | None = None
        """What `timesteps` gave last."""
        self.generators = [
            torch.Generator().manual_seed(derived_seed(seed, purpose, int(position)))
            for position in positions
        ]

    def timesteps(self, steps: int) -> Int[Tensor, " B"]:
        """Each of 0 .. steps - 1, uniform or with the probabilities given."""
        if self._cumulative is None:
            drawn = torch.stack([torch.randint(steps, (), generator=g) for g in self.generators])
        else:
            if len(self._cumulative) != steps:
                raise ValueError(f"Draws: expected {steps} probabilities, got {len(self._cumulative)}")
            uniform = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self.generators])
            drawn = torch.searchsorted(self._cumulative, uniform, right=True).clamp(max=steps - 1)
        self.drawn_timesteps = drawn.to(self.device)
        return self.drawn_timesteps

    def normal(self, shape: tuple[int, ...]) -> Float[Tensor, "B ..."]:
        """Standard normal numbers, `shape` for each sample."""
        drawn = [torch.randn(shape, generator=g) for g in self.generators]
        return torch.stack(drawn).to(self.device, non_blocking=True)

    def uniform(self) -> Float[Tensor, " B"]:
        """One number in [0, 1) for each sample."""
        return torch.stack([torch.rand((), generator=g) for g in self.generators]).to(self.device)
