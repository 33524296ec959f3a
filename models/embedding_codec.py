"""Image embeddings as tokens, for the autoregressive prior (unCLIP, 2204.06125, section 2.2).

The embedding's principal components, ordered by decreasing variance, each quantised to so many buckets.
n samples, d embedding width, K components.
"""

from collections.abc import Iterable
from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from models.pca import Pca


@final
class EmbeddingCodec(nn.Module):
    """Embeddings to token ids [n, K] and back, and dot products with the text embedding to ids.

    Buckets are equally wide, between the least and the largest value seen in fitting; what lies beyond goes
    into the outermost.  The paper does not say how it quantises.  The whole range clips no training sample,
    is exact after one pass in any order (quantiles of a stream are not), and with 1,024 buckets costs little:
    over +-6 standard deviations the error's variance is 1 / 87,000 of the component's.  Dot products of unit
    vectors have their range by themselves.

    All of it is buffers: saved beside the weights it was trained with, never trained.
    """

    low: Float[Tensor, " K"]
    high: Float[Tensor, " K"]
    dot_counts: Int[Tensor, " buckets"]
    """How often training has seen each dot product."""

    def __init__(self, dim: int, components: int, buckets: int) -> None:
        super().__init__()
        self.buckets = buckets
        self.pca = Pca(dim, components)
        self.register_buffer("low", torch.full((components,), -1.0))
        self.register_buffer("high", torch.ones(components))
        self.register_buffer("dot_counts", torch.zeros(buckets, dtype=torch.int64))

    @staticmethod
    def fit(pca: Pca, pairs: Iterable[tuple[Tensor, Tensor]], *, buckets: int = 1024) -> "EmbeddingCodec":
        """The codec of these components, its ranges and counts from batches of image and text embeddings
        ([n, d] each, of unit norm), read once.  Raises `ValueError` where there are none."""
        codec = EmbeddingCodec(len(pca.mean), len(pca.components), buckets)
        codec.pca.load_state_dict(pca.state_dict())
        low, high = (torch.full((len(pca.components),), bound).double() for bound in (torch.inf, -torch.inf))
        for image, text in pairs:
            coordinates = pca(image.double())
            low = torch.minimum(low, coordinates.amin(dim=0))
            high = torch.maximum(high, coordinates.amax(dim=0))
            codec.dot_counts += torch.bincount(codec.encode_dot(image, text), minlength=buckets)
        if not bool(codec.dot_counts.any()):
            raise ValueError("EmbeddingCodec.fit: expected embeddings, got none")
        codec.low.copy_(low)
        codec.high.copy_(high)
        return codec

    def encode(self, embedding: Float[Tensor, "n d"]) -> Int[Tensor, "n K"]:
        """Bucket of each component."""
        if embedding.shape[1] != len(self.pca.mean):
            raise ValueError(
                f"EmbeddingCodec: expected embeddings of width {len(self.pca.mean)}, got {embedding.shape[1]}"
            )
        # In float64, which autocast leaves alone: a token must not depend on the batch size or the precision
        # of the network around it.
        return self._bucket(self.pca(embedding.double()), self.low.double(), self.high.double())

    def decode(self, tokens: Int[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """Embeddings at the buckets' centres, of no particular norm; components beyond the k given stay at
        their mean."""
        low, high = (bound[: tokens.shape[1]].double() for bound in (self.low, self.high))
        return self.pca.inverse(low + (tokens + 0.5) * (high - low) / self.buckets).to(self.low.dtype)

    def encode_dot(
        self, image_embedding: Float[Tensor, "n d"], text_embedding: Float[Tensor, "n d"]
    ) -> Int[Tensor, " n"]:
        """Bucket of the dot product z_i . z_t of embeddings of unit norm."""
        dot = (image_embedding.double() * text_embedding.double()).sum(dim=1)
        return self._bucket(dot, dot.new_tensor(-1.0), dot.new_tensor(1.0))

    def top_half(self, uniform: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Draw buckets of dot products from the top half of their distribution in training, which the paper
        found best: the inverse of the distribution function at (1 + u) / 2, u uniform on [0, 1).

        Raises `ValueError` on a codec that was not fitted.
        """
        if not bool(self.dot_counts.any()):
            raise ValueError("EmbeddingCodec: it was not fitted; use `fit`, or load a trained prior")
        cumulative = self.dot_counts.double().cumsum(0)
        return torch.searchsorted(cumulative, (1 + uniform.double()) / 2 * cumulative[-1], right=True)

    def _bucket(
        self, value: Float64[Tensor, "..."], low: Float64[Tensor, "..."], high: Float64[Tensor, "..."]
    ) -> Int[Tensor, "..."]:
        # A component without any spread has one value, in whichever bucket.
        width = ((high - low) / self.buckets).clamp(min=1e-30)
        return ((value - low) / width).floor().clamp(0, self.buckets - 1).long()
