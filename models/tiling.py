"""Upsamplers over overlapping tiles, where the activations of a whole picture do not fit into memory.

B batch, H W sides of the picture, px.
"""

from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor


def check_tile(tile: int, stride: int) -> None:
    """Raises `ValueError` where `tile` is no multiple of `stride`, a network's, or too small to overlap."""
    if tile % stride or tile < 4 * stride:
        raise ValueError(
            f"tile: expected a multiple of the upsampler's stride, {stride} px, and at least "
            f"{4 * stride} px, got {tile}"
        )


@final
class Tiled:
    """A network run over tiles, what it says of them blended, at every step of a sampler.

    The sampler goes on seeing the whole picture and drawing its noise at once, so tiles do not drift apart:
    where they overlap, both say nearly the same and a linear ramp leads from one to the other.  Without
    attention a tile differs from the whole in two ways: near its edges, where the network sees zeros instead
    of neighbours (the ramp gives them little weight), and in the statistics of its group norms.

    One tile's activations are held at a time.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        *,
        tile: int,
        stride: int,
    ) -> None:
        """Tiles of `tile` px a side overlap by at least a quarter of it.  They begin on multiples of
        `stride`, the network's, so that its feature maps lie where they would in the whole.

        Raises `ValueError` as `check_tile` does.
        """
        check_tile(tile, stride)
        self.network, self.tile, self.stride = network, tile, stride
        self.overlap = -(-tile // (4 * stride)) * stride

    def __call__(
        self, x_t: Float[Tensor, "B channels H W"], t: Int[Tensor, " B"], /, **conditions: Tensor
    ) -> Float[Tensor, "B out_channels H W"]:
        """Conditions of the picture's size are cut as it is, others go to every tile."""
        height, width = x_t.shape[2:]
        pictures = {name for name, value in conditions.items() if value.shape[2:] == x_t.shape[2:]}
        total, weights = x_t.new_zeros(()), x_t.new_zeros(height, width)
        for top in self.starts(height):
            for left in self.starts(width):
                window = (..., slice(top, top + self.tile), slice(left, left + self.tile))
                cut = {k: v[window] if k in pictures else v for k, v in conditions.items()}
                output = self.network(x_t[window], t, **cut)
                if total.ndim == 0:
                    total = output.new_zeros(*output.shape[:2], height, width)
                ramp = torch.outer(self._ramp(output.shape[2]), self._ramp(output.shape[3])).to(output)
                total[window] += output * ramp
                weights[window] += ramp
        return total / weights

    def starts(self, side: int) -> list[int]:
        """Where tiles begin, evenly spread from 0 to the last one's place; one for a picture no larger."""
        if side <= self.tile:
            return [0]
        count = -(-(side - self.overlap) // (self.tile - self.overlap))
        last = (side - self.tile) // self.stride
        return [round(i * last / (count - 1)) * self.stride for i in range(count)]

    def _ramp(self, length: int) -> Float[Tensor, " {length}"]:
        """Weights along a side: rising over the overlap, 1 in the middle, falling."""
        distance = torch.arange(1, length + 1, dtype=torch.float32)
        return (torch.minimum(distance, distance.flip(0)) / (self.overlap + 1)).clamp(max=1)
