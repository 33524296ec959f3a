"""Principal components of embeddings, fitted in one pass (2204.06125, section 3 and Fig. 7).

d embedding width, k components kept.
"""

from collections.abc import Iterable
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@final
class Pca(nn.Module):
    """An orthonormal basis, its directions ordered by how much the embeddings vary along them.

    All it holds is buffers, so `state_dict()` goes into safetensors as it is.  Make one with `Pca.fit`, or
    with `Pca(d, k)` and `load_state_dict`.

        >>> x = torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
        >>> pca = Pca.fit([x])
        >>> bool(torch.allclose(pca.truncate(x, 1), x, atol=1e-6))
        True
    """

    mean: Float[Tensor, " d"]
    components: Float[Tensor, "k d"]
    """Rows of unit norm, largest variance first; their largest entry is positive, so that a fit has one
    sign."""
    variance: Float[Tensor, " k"]
    """Of the fitted embeddings along each component (n - 1 in the denominator)."""
    total_variance: Float[Tensor, ""]
    """Along all d directions, those left out included."""

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        if not 1 <= components <= dim:
            raise ValueError(f"Pca: expected 1 to {dim} components of {dim} dimensions, got {components}")
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("components", torch.eye(dim)[:components])
        self.register_buffer("variance", torch.ones(components))
        self.register_buffer("total_variance", torch.tensor(float(dim)))

    @staticmethod
    def fit(batches: Iterable[Float[Tensor, "_n d"]], components: int | None = None) -> "Pca":
        """The components of all rows of `batches`, read once, whatever their number; None: all d.

        Holds a d by d matrix in float64.  Raises `ValueError` on fewer than two rows, on numbers that are not
        finite, and on more components than dimensions.
        """
        count, mean, scatter = _moments(batches)
        # In float64 the smallest eigenvalues come out as +-1e-17 rather than 0.
        eigenvalues, vectors = torch.linalg.eigh(scatter / (count - 1))
        eigenvalues, directions = eigenvalues.flip(0).clamp(min=0), vectors.T.flip(0)
        largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
        pca = Pca(len(mean), len(mean) if components is None else components)
        k = len(pca.components)
        pca.mean.copy_(mean)
        pca.components.copy_((directions * largest.sign())[:k])
        pca.variance.copy_(eigenvalues[:k])
        pca.total_variance.copy_(eigenvalues.sum())
        return pca

    def first(self, components: int) -> "Pca":
        """The same basis cut down to its first components."""
        self._check(components)
        pca = Pca(len(self.mean), components)
        for name in ("mean", "total_variance"):
            getattr(pca, name).copy_(getattr(self, name))
        for name in ("components", "variance"):
            getattr(pca, name).copy_(getattr(self, name)[:components])
        return pca

    def components_for(self, share: float) -> int:
        """The fewest leading components that hold `share` of the whole variance.

        unCLIP's embeddings needed 319 of 1,024 for 99 %.  Raises `ValueError` where all of these hold less.
        """
        explained = self.variance.double().cumsum(0) / self.total_variance.double()
        # The sums are of rounded numbers: all components hold the whole but for the last digits.
        enough = (explained >= share - 1e-6).nonzero()
        if not 0 < share <= 1 or len(enough) == 0:
            raise ValueError(
                f"Pca.components_for: expected a share in (0, 1] that {len(explained)} components hold, got "
                f"{share}; they hold {float(explained[-1]):.4f}"
            )
        return int(enough[0]) + 1

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Coordinates along the components, of the mean 0, in the precision of `x`."""
        return (x - self.mean.to(x.dtype)) @ self.components.to(x.dtype).T

    def inverse(self, coordinates: Float[Tensor, "n kept"]) -> Float[Tensor, "n d"]:
        """The embeddings of coordinates along the first `kept` components, the others at their mean, in the
        precision of the coordinates."""
        kept = coordinates.shape[1]
        self._check(kept)
        dtype = coordinates.dtype
        return self.mean.to(dtype) + coordinates @ self.components[:kept].to(dtype)

    def truncate(self, x: Float[Tensor, "n d"], kept: int) -> Float[Tensor, "n d"]:
        """`x` as its first `kept` components tell it.  Its norm shrinks with what is left out."""
        self._check(kept)
        return self.inverse(self(x)[:, :kept])

    def explained(self) -> Float[Tensor, " k"]:
        """Share of the whole variance in the first 1, 2, ... k components."""
        return self.variance.cumsum(0) / self.total_variance

    def _check(self, kept: int) -> None:
        if not 1 <= kept <= len(self.components):
            raise ValueError(f"Pca: expected 1 to {len(self.components)} components, got {kept}")


def _moments(batches: Iterable[Tensor]) -> tuple[int, Tensor, Tensor]:
    """Number of rows, their mean, and their scatter about it, in float64.

    Two batches are merged by the pairwise update of Chan, Golub and LeVeque (1979): sums of squares about
    zero would lose the digits of a variance that is small beside the mean.
    """
    count, mean, scatter = 0, torch.zeros(0), torch.zeros(0)
    for batch in batches:
        rows = batch.detach().double().cpu()
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(f"Pca.fit: expected finite numbers, got NaN or infinity after {count} rows")
        if len(rows) == 0:
            continue
        centre = rows.mean(dim=0)
        about_centre = (rows - centre).T @ (rows - centre)
        if count == 0:
            count, mean, scatter = len(rows), centre, about_centre
            continue
        if rows.shape[1] != len(mean):
            raise ValueError(f"Pca.fit: expected rows of {len(mean)} numbers, got {rows.shape[1]}")
        total, step = count + len(rows), centre - mean
        scatter = scatter + about_centre + torch.outer(step, step) * (count * len(rows) / total)
        mean, count = mean + step * (len(rows) / total), total
    if count < 2:
        raise ValueError(f"Pca.fit: expected at least 2 rows, got {count}")
    return count, mean, scatter
