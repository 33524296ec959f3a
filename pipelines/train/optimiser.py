"""Settings of the optimiser, with its schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserSettings:
    """Adam with decoupled weight decay.  Betas, epsilon and decay are the paper's (2204.06125, Table 3); it
    does not state warm-up, decay of the learning rate or clipping."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm; 0: never."""
    warmup_steps: int = 0
    lr_decay: Literal["constant", "cosine"] = "constant"
    """`cosine` falls to zero at the last step."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if not (self.lr > 0 and 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.eps > 0):
            raise ValueError(
                f"optimiser: expected lr and eps above 0 and betas in [0, 1), got lr={self.lr}, "
                f"eps={self.eps}, beta1={self.beta1}, beta2={self.beta2}"
            )
        if min(self.weight_decay, self.clip_norm, self.warmup_steps) < 0:
            raise ValueError("optimiser: weight_decay, clip_norm and warmup_steps must be at least 0")

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of update `step` (from 0) of `steps`: a function of the step, so nothing to
        checkpoint."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.lr_decay == "constant":
            return self.lr * warm
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
