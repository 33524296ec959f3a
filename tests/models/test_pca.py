"""Principal components against numpy's, however the rows are cut into batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.pca import Pca

ROWS = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(8, 0, -1) + 100


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_the_components_are_those_of_the_covariance(batch: int) -> None:
    pca = Pca.fit(ROWS.split(batch))
    expected = np.linalg.eigvalsh(np.cov(ROWS.double().numpy().T))[::-1]
    np.testing.assert_allclose(pca.variance.numpy(), expected, rtol=1e-5)
    torch.testing.assert_close(pca.components @ pca.components.T, torch.eye(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(pca(ROWS).var(dim=0), pca.variance, rtol=1e-4, atol=0)
    torch.testing.assert_close(pca.components, Pca.fit([ROWS]).components, rtol=0, atol=1e-5)


def test_what_is_left_out_is_the_error_and_all_components_leave_nothing_out() -> None:
    pca = Pca.fit([ROWS])
    torch.testing.assert_close(pca.truncate(ROWS, 8), ROWS, rtol=0, atol=1e-4)
    for kept in (1, 3, 7):
        error = (pca.truncate(ROWS, kept) - ROWS).square().sum() / (len(ROWS) - 1)
        torch.testing.assert_close(error, pca.variance[kept:].sum(), rtol=1e-3, atol=0)
        torch.testing.assert_close(pca.explained()[kept - 1], 1 - error / pca.total_variance)
    torch.testing.assert_close(Pca.fit([ROWS], 3).truncate(ROWS, 3), pca.truncate(ROWS, 3))


def test_a_share_of_the_variance_asks_for_the_fewest_components_that_hold_it() -> None:
    pca = Pca.fit([ROWS])
    for kept, share in enumerate(pca.explained().tolist(), start=1):
        assert pca.components_for(share) == kept
        assert pca.components_for(share - 0.002) == kept
    first = pca.first(3)
    torch.testing.assert_close(first.truncate(ROWS, 2), pca.truncate(ROWS, 2), rtol=0, atol=1e-4)
    assert torch.equal(first.explained(), pca.explained()[:3])
    with pytest.raises(ValueError, match=r"that 3 components hold, got 1.0; they hold 0.7"):
        first.components_for(1.0)


def test_buffers_are_the_whole_of_it(tmp_path: Path) -> None:
    pca = Pca.fit([ROWS], 3)
    save_file(pca.state_dict(), tmp_path / "pca.safetensors")
    copy = Pca(8, 3)
    copy.load_state_dict(load_file(tmp_path / "pca.safetensors"))
    assert torch.equal(copy.truncate(ROWS, 2), pca.truncate(ROWS, 2))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        Pca.fit([ROWS[:1]])
    with pytest.raises(ValueError, match="NaN or infinity after 60 rows"):
        Pca.fit([ROWS, ROWS * float("nan")])
    with pytest.raises(ValueError, match="rows of 8 numbers, got 7"):
        Pca.fit([ROWS, ROWS[:, :7]])
    with pytest.raises(ValueError, match="1 to 8 components of 8 dimensions, got 9"):
        Pca.fit([ROWS], 9)
    with pytest.raises(ValueError, match="1 to 3 components, got 4"):
        Pca.fit([ROWS], 3).truncate(ROWS, 4)
