"""Timesteps drawn by how large the losses at them are (improved DDPM, 2102.09672, section 3.3)."""

from typing import final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor


@final
class LossAwareTimesteps:
    """Importance sampling of the timestep: p_t proportional to sqrt(E[L_t^2]), estimated from the last
    `history` losses at t; uniform until every t has that many.

    A loss counts 1 / (steps p_t) times, so its mean remains the one of uniform timesteps; what falls is the
    noise of the gradient.  The paper wants it for the variational bound, whose terms differ by orders of
    magnitude, and found no gain on the hybrid loss.
    """

    def __init__(self, steps: int, *, history: int = 10, uniform_share: float = 0.001) -> None:
        """`uniform_share` of the probability is spread evenly, so that no t is ever given up."""
        if steps < 1 or history < 1 or not 0 < uniform_share <= 1:
            raise ValueError(
                f"LossAwareTimesteps: expected steps and history of at least 1 and uniform_share in (0, 1], "
                f"got {steps}, {history} and {uniform_share}"
            )
        self.uniform_share = uniform_share
        self._losses = torch.zeros(steps, history, dtype=torch.float64)
        self._seen = torch.zeros(steps, dtype=torch.long)

    @property
    def warm(self) -> bool:
        """Whether every timestep has a whole history."""
        return bool((self._seen >= self._losses.shape[1]).all())

    def probabilities(self) -> Float64[Tensor, " steps"]:
        """p_t of every timestep; they sum to 1."""
        steps = len(self._seen)
        uniform = torch.full((steps,), 1 / steps, dtype=torch.float64)
        size = self._losses.square().mean(dim=1).sqrt()
        if not self.warm or float(size.sum()) == 0:
            return uniform
        return (1 - self.uniform_share) * size / size.sum() + self.uniform_share * uniform

    def importance(self, t: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """What a loss at `t` is multiplied by, on the device of `t`."""
        p = self.probabilities()
        return (1 / (len(p) * p)).float().to(t.device)[t]

    def record(self, t: Int[Tensor, " batch"], losses: Float[Tensor, " batch"]) -> None:
        """Remember unweighted losses, in the order given; what is oldest at a timestep is forgotten."""
        for step, loss in zip(t.tolist(), losses.tolist(), strict=True):
            self._losses[step, self._seen[step] % self._losses.shape[1]] = loss
            self._seen[step] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"losses": self._losses.clone(), "seen": self._seen.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict()`.  Raises `ValueError` where it is of another number of steps."""
        if state["losses"].shape != self._losses.shape:
            raise ValueError(
                f"LossAwareTimesteps: expected a history of shape {tuple(self._losses.shape)}, "
                f"got {tuple(state['losses'].shape)}"
            )
        self._losses, self._seen = state["losses"].clone(), state["seen"].clone()
