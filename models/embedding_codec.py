"""Image embeddings as tokens, for the autoregressive prior (unCLIP, 2204.06125, section 2.2).

The embedding's principal components, ordered by decreasing variance, each quantised to so many buckets.
n samples, d embedding width, K components.
"""

from collections.abc import Callable, Iterable
from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from models.pca import Moments, Pca

EmbeddingPairs = Iterable[tuple[Tensor, Tensor]]
"""Batches of image and text embeddings, [n, d] each, row by row of one sample."""


@final
class EmbeddingCodec(nn.Module):
    """Embeddings to token ids [n, K] and back, and the same for dot products with the text embedding.

    Buckets are equally wide between the least and the largest value seen in fitting; what lies beyond goes
    into the outermost.  The paper does not say how it quantises.  The whole range clips no training sample,
    is exact after one pass in any order (quantiles of a stream are not), and with 1,024 buckets costs little:
    over +-6 standard deviations the error's variance is 1 / 87,000 of the component's.

    All of it is buffers: saved beside the weights it was trained with, never trained.
    """

    low: Tensor
    high: Tensor
    dot_range: Tensor
    dot_counts: Tensor

    def __init__(self, dim: int, components: int, buckets: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.pca = Pca(dim, components)
        self.register_buffer("low", torch.zeros(components))
        self.register_buffer("high", torch.zeros(components))
        self.register_buffer("dot_range", torch.zeros(2))
        self.register_buffer("dot_counts", torch.zeros(buckets, dtype=torch.int64))

    def encode(self, embedding: Float[Tensor, "n d"]) -> Int[Tensor, "n K"]:
        """Bucket of each component."""
        return self._bucket(self.pca.project(embedding), self.low, self.high)

    def decode(self, tokens: Int[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """Embeddings at the buckets' centres; components beyond the k given stay at their mean."""
        k = tokens.shape[1]
        width = (self.high[:k].double() - self.low[:k].double()) / self.buckets
        return self.pca.reconstruct(self.low[:k].double() + (tokens + 0.5) * width)

    def encode_dot(
        self, image_embedding: Float[Tensor, "n d"], text_embedding: Float[Tensor, "n d"]
    ) -> Int[Tensor, " n"]:
        """Bucket of the dot product z_i . z_t."""
        dot = (image_embedding.double() * text_embedding.double()).sum(dim=1)
        return self._bucket(dot, self.dot_range[0], self.dot_range[1])

    def top_half(self, uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Draw buckets of dot products from the top half of their distribution in training, which the paper
        found best: the inverse of the distribution function at (1 + u) / 2, u uniform on [0, 1).

        Raises `ValueError` on a codec that was not fitted.
        """
        if not bool(self.dot_counts.any()):
            raise ValueError("EmbeddingCodec: it was not fitted; use `fit_codec`, or load a trained prior")
        cumulative = self.dot_counts.double().cumsum(0)
        return torch.searchsorted(cumulative, (1 + uniform.double()) / 2 * cumulative[-1], right=True)

    def _bucket(self, value: Float64[Tensor, "..."], low: Tensor, high: Tensor) -> Int[Tensor, "..."]:
        # A component without any spread has one value, in whichever bucket.
        width = ((high.double() - low.double()) / self.buckets).clamp(min=1e-30)
        return ((value - low.double()) / width).floor().clamp(0, self.buckets - 1).long()


def fit_codec(
    batches: Callable[[], EmbeddingPairs], *, keep: int | float = 0.99, buckets: int = 1024
) -> EmbeddingCodec:
    """Fit a codec to the embeddings that `batches()` yields, twice, a batch in memory at a time.

    The first pass finds mean and principal components (`keep`: their number, or the share of the variance
    they must hold) and the range of the dot products; the second the range of every component, and how often
    each dot product occurs.  Raises `ValueError` where there are fewer than two embeddings, or all are alike.
    """
    moments, dots = None, _Range()
    for image, text in batches():
        moments = moments or Moments(image.shape[1])
        moments.add(image)
        dots.add((image.double() * text.double()).sum(dim=1, keepdim=True))
    if moments is None:
        raise ValueError("fit_codec: expected at least 2 embeddings, got none")
    pca = moments.pca(keep)
    codec = EmbeddingCodec(len(pca.mean), len(pca.components), buckets)
    codec.pca = pca
    codec.dot_range.copy_(torch.cat([dots.low, dots.high]))
    coefficients = _Range()
    for image, text in batches():
        coefficients.add(pca.project(image))
        codec.dot_counts += torch.bincount(codec.encode_dot(image, text), minlength=buckets)
    codec.low.copy_(coefficients.low)
    codec.high.copy_(coefficients.high)
    return codec


class _Range:
    """Least and largest value of each column so far."""

    def __init__(self) -> None:
        self.low, self.high = torch.tensor(torch.inf).double(), torch.tensor(-torch.inf).double()

    def add(self, x: Float64[Tensor, "n k"]) -> None:
        self.low = torch.minimum(self.low, x.amin(dim=0))
        self.high = torch.maximum(self.high, x.amax(dim=0))
