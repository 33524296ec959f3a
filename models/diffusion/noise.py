"""Random numbers that belong to a sample, not to a batch."""

from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor


@final
class SampleNoise:
    """Independent streams of random numbers, one a sample.

    Sample `first + i` of stream `stream` draws the same numbers whichever batch it is drawn in and on
    whichever device: each sample owns a CPU generator seeded from (seed, stream, its index).  Give the stages
    of a cascade different streams, so that they do not share noise.
    """

    def __init__(self, seed: int, count: int, *, first: int = 0, stream: int = 0) -> None:
        if min(seed, count, first, stream) < 0:
            raise ValueError(
                f"SampleNoise: expected numbers of at least 0, got {seed=}, {count=}, {first=}, {stream=}"
            )
        self.count = count
        self._generators = [
            torch.Generator().manual_seed(_seed(seed, stream, index)) for index in range(first, first + count)
        ]

    def like(self, x: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch *shape"]:
        """The next draw of every stream, with the shape, device and dtype of `x`; advances the streams."""
        return self.draw(tuple(x.shape[1:]), device=x.device, dtype=x.dtype)

    def draw(
        self,
        shape: tuple[int, ...],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "..."]:
        """The next draw of every stream: [count, *shape]; advances the streams."""
        if not self._generators:
            return torch.empty(0, *shape, device=device, dtype=dtype)
        rows = [torch.randn(shape, generator=g, device="cpu") for g in self._generators]
        return torch.stack(rows).to(device=device, dtype=dtype)

    def uniform(
        self, shape: tuple[int, ...], *, device: torch.device | str = "cpu"
    ) -> Float64[Tensor, "..."]:
        """The next uniform numbers in [0, 1) of every stream: [count, *shape], float64; advances the
        streams."""
        rows = [torch.rand(shape, generator=g, device="cpu", dtype=torch.float64) for g in self._generators]
        return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, dtype=torch.float64)


def sampling_dtype(x: Tensor) -> torch.dtype:
    """What a chain that is conditioned on `x` is held in: float32 even for networks of half precision, whose
    few digits the small steps at the end of a chain would be lost in."""
    return torch.promote_types(x.dtype, torch.float32)


def _seed(seed: int, stream: int, index: int) -> int:
    # SeedSequence mixes well: neighbouring seeds and indices give unrelated streams, seed + index would not.
    state = np.random.SeedSequence(seed, spawn_key=(stream, index)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
