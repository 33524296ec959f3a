import math

import pytest
import torch

from models.pca import Moments, Pca, components_for
from tests.models.tiny import unit

DIM, RANK = 12, 3
DEVIATIONS = torch.tensor([3.0, 2.0, 1.0])


def low_rank(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points off the origin in a plane of three known axes, whose spread along each is exact."""
    axes = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0))).Q[:RANK]
    free = torch.randn(count, RANK, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    white = torch.linalg.qr(free - free.mean(dim=0)).Q * math.sqrt(count)
    return (0.5 + (white * DEVIATIONS) @ axes.double()).float(), axes


def fitted(count: int = 200, keep: int | float = 0.99, parts: int = 4) -> Pca:
    moments = Moments(DIM)
    for part in low_rank(count)[0].chunk(parts):
        moments.add(part)
    return moments.pca(keep)


def test_axes_come_out_by_decreasing_variance_whatever_the_batches() -> None:
    pca, (x, axes) = fitted(), low_rank(200)
    assert pca.components.shape == (RANK, DIM)
    torch.testing.assert_close(pca.variances[:RANK], DEVIATIONS**2, rtol=1e-5, atol=0)
    assert float(pca.variances[RANK:].max()) < 1e-6
    torch.testing.assert_close((pca.components @ axes.T).abs(), torch.eye(RANK), rtol=0, atol=1e-5)
    torch.testing.assert_close(pca.mean, x.mean(dim=0), rtol=0, atol=1e-6)
    torch.testing.assert_close(fitted(parts=1).components, pca.components, rtol=0, atol=1e-6)
    assert bool((pca.components.gather(1, pca.components.abs().argmax(1, keepdim=True)) > 0).all())


def test_a_share_of_the_variance_keeps_the_fewest_components_that_hold_it() -> None:
    """Of 9 + 4 + 1: one component holds 64 %, two 93 %."""
    assert [len(fitted(keep=share).components) for share in (0.6, 0.65, 0.93, 1.0)] == [1, 2, 3, RANK]
    assert fitted(keep=2).kept == pytest.approx(13 / 14, rel=1e-5)
    assert components_for(torch.tensor([3.0, 1.0]), 0.75) == 1


def test_truncation_loses_the_components_left_out_and_nothing_else() -> None:
    x, pca = low_rank(200)[0], fitted()
    torch.testing.assert_close(pca.reconstruct(pca.project(x)), x, rtol=0, atol=1e-5)
    lost = x - pca.reconstruct(pca.project(x)[:, :1])
    assert float(lost.square().sum(dim=1).mean()) == pytest.approx(5.0, rel=1e-4)
    on_sphere = torch.nn.functional.normalize(x, dim=1)
    torch.testing.assert_close(pca.truncate(x, RANK), on_sphere, rtol=0, atol=1e-5)
    torch.testing.assert_close(pca.truncate(x, 1).norm(dim=1), torch.ones(200))


def test_what_cannot_be_fitted_or_kept_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 embeddings, got 0"):
        Moments(4).pca()
    alike = Moments(4)
    alike.add(torch.ones(5, 4))
    with pytest.raises(ValueError, match="embeddings that differ"):
        alike.pca()
    with pytest.raises(ValueError, match="finite"):
        alike.add(torch.full((1, 4), float("nan")))
    with pytest.raises(ValueError, match=r"1 to 12 \(the width\) components, got 13"):
        fitted(keep=13)
    with pytest.raises(ValueError, match=r"share of the variance in \(0, 1\], got 1.5"):
        fitted(keep=1.5)
    with pytest.raises(ValueError, match="1 to 3 components, got 4"):
        fitted().truncate(low_rank(4)[0], 4)
    with pytest.raises(ValueError, match="width 12, got 16"):
        fitted().project(unit(2))
