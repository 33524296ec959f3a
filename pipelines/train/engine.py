"""What the loop needs of a data-parallel engine, and the one that is plain torch.

`infra.deepspeed_engine.DeepSpeedEngine` is the other.  Both speak of whole fp32 parameters and whole Adam
moments by parameter name, so a checkpoint knows neither engine nor ZeRO stage nor number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, final

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Engine(Protocol):
    """One rank's side of a data-parallel training.  Methods marked collective are called by all ranks
    alike."""

    def network(self) -> nn.Module:
        """What to call in the forward pass."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one micro-batch's mean loss.  Collective."""
        ...

    def step(self, lr: float) -> float | Tensor:
        """Average the gradients over micro-batches and ranks, clip, update; their norm before clipping.
        Collective."""
        ...

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, whole, in the network's order; valid until the next step.  Collective."""
        ...

    def moments(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, first and second moment of every parameter, whole.  Only after the first step.
        Collective."""
        ...

    def load_moments(
        self, exp_avg: Mapping[str, Tensor], exp_avg_sq: Mapping[str, Tensor], updates: int
    ) -> None:
        """Take up Adam where it was after `updates` steps.  The parameters themselves are loaded into the
        network before the engine is made.  Collective."""
        ...


@final
class TorchEngine:
    """Plain torch: every rank holds everything, gradients are averaged in one all-reduce."""

    def __init__(
        self, network: nn.Module, optimiser: torch.optim.AdamW, *, clip_norm: float, micro_batches: int = 1
    ) -> None:
        self._network, self._optimiser = network, optimiser
        self._clip_norm, self._micro_batches = clip_norm, micro_batches
        self._named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]

    def network(self) -> nn.Module:
        return self._network

    def backward(self, loss: Tensor) -> None:
        (loss / self._micro_batches).backward()

    def step(self, lr: float) -> float | Tensor:
        gradients = self._average_gradients()
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._clip_norm:
            torch.nn.utils.clip_grads_with_norm_([p for _, p in self._named], self._clip_norm, norm)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return norm

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._named:
            yield name, parameter.detach()

    def moments(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        for name, parameter in self._named:
            state = self._optimiser.state[parameter]
            yield name, state["exp_avg"], state["exp_avg_sq"]

    def load_moments(
        self, exp_avg: Mapping[str, Tensor], exp_avg_sq: Mapping[str, Tensor], updates: int
    ) -> None:
        for name, parameter in self._named:
            self._optimiser.state[parameter] = {
                "step": torch.tensor(float(updates)),
                "exp_avg": exp_avg[name].to(parameter.device, copy=True),
                "exp_avg_sq": exp_avg_sq[name].to(parameter.device, copy=True),
            }

    def _average_gradients(self) -> list[Tensor]:
        for _, parameter in self._named:
            if parameter.grad is None:  # not reached in this step: the ranks must still agree on the layout
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for _, p in self._named if p.grad is not None]
        if dist.is_initialized() and dist.get_world_size() > 1:
            flat = torch.cat([g.flatten() for g in gradients])
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))
        return gradients
