import pytest
import torch
from torch import Tensor

from models.diffusion.guidance import Guided


class Counted:
    """A network with a condition, that notes the batches it is run on."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x_t: Tensor, t: Tensor, /, *, shift: Tensor) -> Tensor:
        self.batches.append(len(x_t))
        mean = x_t * 0.5 + shift[:, :, None, None] + t[:, None, None, None]
        return torch.cat([mean, -mean], dim=1)


X, T = torch.randn(3, 2, 4, 4), torch.tensor([1, 5, 9])
CONDITION, NULL = {"shift": torch.randn(3, 2)}, {"shift": torch.zeros(3, 2)}


def test_scale_1_is_the_conditional_branch_and_runs_only_it() -> None:
    network = Counted()
    assert torch.equal(Guided(network, CONDITION, NULL, 1.0)(X, T), network(X, T, **CONDITION))
    assert network.batches == [3, 3]


def test_both_branches_run_in_one_forward_and_only_the_mean_is_guided() -> None:
    network = Counted()
    out = Guided(network, CONDITION, NULL, 3.0)(X, T)
    assert network.batches == [6]
    conditional, null = network(X, T, **CONDITION), network(X, T, **NULL)
    torch.testing.assert_close(out[:, :2], null[:, :2] + 3.0 * (conditional - null)[:, :2])
    assert torch.equal(out[:, 2:], conditional[:, 2:])


def test_scale_0_is_the_null_branch() -> None:
    network = Counted()
    assert torch.equal(Guided(network, CONDITION, NULL, 0.0)(X, T)[:, :2], network(X, T, **NULL)[:, :2])


def test_branches_with_different_conditions_are_refused() -> None:
    with pytest.raises(ValueError, match="same conditions"):
        Guided(Counted(), CONDITION, {}, 2.0)
