"""Principal components of embeddings, fitted out of core (unCLIP, 2204.06125, sections 2.2 and 3.4).

n samples, d embedding width, K components kept.
"""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn


@final
class Pca(nn.Module):
    """Mean and principal axes, ordered by decreasing variance; saved like any weights, trained never.

    >>> moments = Moments(3)
    >>> moments.add(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]))
    >>> pca = moments.pca(keep=0.99)
    >>> pca.components.shape, pca.kept
    (torch.Size([2, 3]), 1.0)
    """

    mean: Tensor
    components: Tensor
    variances: Tensor

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        if not 1 <= components <= dim:
            raise ValueError(f"Pca: expected 1 to {dim} (the width) components, got {components}")
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("components", torch.zeros(components, dim))
        self.register_buffer("variances", torch.zeros(dim))

    @property
    def kept(self) -> float:
        """Share of the variance that the kept components hold."""
        return float(self.variances[: len(self.components)].sum() / self.variances.sum())

    def project(self, embedding: Float[Tensor, "n d"]) -> Float64[Tensor, "n K"]:
        """Coefficients, in float64: what is quantised must not depend on the precision or the batch size of
        the network around it (autocast leaves float64 alone)."""
        if embedding.shape[1] != self.mean.shape[0]:
            raise ValueError(
                f"Pca: expected embeddings of width {self.mean.shape[0]}, got {embedding.shape[1]}"
            )
        return (embedding.double() - self.mean.double()) @ self.components.double().T

    def reconstruct(self, coefficients: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """Embeddings from their first k coefficients, the others at 0; of no particular norm."""
        components = self.components[: coefficients.shape[1]].double()
        return (self.mean.double() + coefficients.double() @ components).to(self.mean.dtype)

    def truncate(self, embedding: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n d"]:
        """The embedding's first `k` components alone, brought back to unit norm: what the PCA
        reconstructions of Figure 7 are decoded from.

        Raises `ValueError` where fewer than `k` components are kept.
        """
        if not 1 <= k <= len(self.components):
            raise ValueError(f"Pca.truncate: expected 1 to {len(self.components)} components, got {k}")
        return F.normalize(self.reconstruct(self.project(embedding)[:, :k]), dim=-1)


@final
class Moments:
    """Sums over a stream of embeddings, from which their principal components follow.

    In float64: the second moment is nearly the square of the mean where embeddings lie in a narrow cone.
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self._sum = torch.zeros(dim, dtype=torch.float64)
        self._second = torch.zeros(dim, dim, dtype=torch.float64)

    def add(self, embedding: Float[Tensor, "n d"]) -> None:
        """Take in another batch.  Raises `ValueError` on numbers that are not finite."""
        if not bool(torch.isfinite(embedding).all()):
            raise ValueError("Moments: expected finite embeddings, got NaN or infinity")
        x = embedding.detach().cpu().double()
        self.count += len(x)
        self._sum += x.sum(dim=0)
        self._second += x.T @ x

    def pca(self, keep: int | float = 0.99) -> Pca:
        """The first `keep` components; a share below 1: as few as hold that share of the variance.

        99 % took 319 of 1,024 components in the paper.  Raises `ValueError` where the embeddings are fewer
        than two or all alike.
        """
        if self.count < 2:
            raise ValueError(f"Moments.pca: expected at least 2 embeddings, got {self.count}")
        mean = self._sum / self.count
        values, vectors = torch.linalg.eigh(self._second / self.count - torch.outer(mean, mean))
        variances, axes = values.flip(0).clamp(min=0), vectors.flip(1).T
        if float(variances[0]) <= 1e-12 * float(self._second.trace() / self.count):
            raise ValueError("Moments.pca: expected embeddings that differ, got no variance")
        number = keep if isinstance(keep, int) else components_for(variances, keep)
        pca = Pca(len(mean), number)
        # An axis has no sign of its own: its largest entry is made positive, whatever the library returned.
        axes = axes[:number]
        signs = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
        pca.mean.copy_(mean)
        pca.components.copy_(axes * signs)
        pca.variances.copy_(variances)
        return pca


def components_for(variances: Float[Tensor, " d"], share: float) -> int:
    """The fewest leading components that hold `share` of the variance."""
    if not 0 < share <= 1:
        raise ValueError(f"expected a share of the variance in (0, 1], got {share}")
    held = variances.double().cumsum(0) / variances.double().sum()
    return min(int((held < share - 1e-12).sum()) + 1, len(variances))
