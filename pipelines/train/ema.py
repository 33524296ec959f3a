"""Exponential moving average of the weights, each rank keeping its share of the parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor


@final
class Ema:
    """Average of the weights after every update, in fp32.

    A parameter belongs to one rank, which costs each of N ranks 4 / N bytes a parameter instead of 4.  The
    average of a parameter is the same whoever keeps it, so ownership enters no checkpoint.

    The decay of update n is min(decay, (1 + n) / (10 + n)): without that, the first thousands of updates
    would average mostly the random initialisation.  The paper states the final decay only.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, decay: float, rank: int, ranks: int) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay: expected a number in [0, 1), got {decay}")
        self.decay, self._rank = decay, rank
        self._shapes = dict(shapes)
        self._owner = assign_owners({name: math.prod(shape) for name, shape in shapes.items()}, ranks)
        self._average: dict[str, Tensor] = {}

    def reset(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Begin, or go on, from these averages."""
        self._average = {
            name: p.detach().float().clone() for name, p in parameters if self._owner[name] == self._rank
        }

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, Tensor]], step: int) -> None:
        """Take in the weights after update `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in parameters:
            if self._owner[name] == self._rank:
                self._average[name].lerp_(parameter.float(), 1 - decay)

    def gather(self, device: torch.device) -> dict[str, Tensor]:
        """All averages, on the CPU of rank 0 (empty elsewhere).  Collective."""
        gathered = {}
        for name, shape in self._shapes.items():
            mine = self._owner[name] == self._rank
            value = self._average[name] if mine else torch.empty(shape, device=device)
            if dist.is_initialized() and self._owner[name] != 0:
                dist.broadcast(value, src=self._owner[name])
            if self._rank == 0:
                gathered[name] = value.cpu().clone()
        return gathered


def assign_owners(sizes: Mapping[str, int], ranks: int) -> dict[str, int]:
    """A rank for each name: the largest first, each to the rank that holds least."""
    held = [0] * ranks
    owner = {}
    for name in sorted(sizes, key=lambda n: (-sizes[n], n)):
        owner[name] = held.index(min(held))
        held[owner[name]] += sizes[name]
    return owner
