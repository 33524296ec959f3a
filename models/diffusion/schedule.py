"""Noise schedules and the choice of the timesteps a sampler visits.

Schedules are float64: the cumulative products that follow from them lose digits in float32 at both ends.
They are on the CPU whatever the default device is, as all tables of a process are at first.
A schedule once released is never changed, only joined by another: weights are trained against it.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor


def cosine_betas(steps: int, *, max_beta: float = 0.999) -> Float64[Tensor, " steps"]:
    """Cosine schedule of improved DDPM (Nichol & Dhariwal, 2102.09672, eq. 17), offset s = 0.008.

    `max_beta` is the paper's clip that keeps the last step from being singular.
    """
    _check_steps(steps)

    def alpha_bar(fraction: float) -> float:
        return math.cos((fraction + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), max_beta) for i in range(steps)]
    return torch.tensor(betas, dtype=torch.float64, device="cpu")


def linear_betas(steps: int) -> Float64[Tensor, " steps"]:
    """Linear schedule of DDPM (Ho et al., 2006.11239, section 4): 1e-4 to 0.02, scaled by 1000 / `steps`."""
    _check_steps(steps)
    scale = 1000 / steps
    if scale * 0.02 > 1:
        raise ValueError(
            f"linear_betas: expected at least 20 steps (the last beta must not exceed 1), got {steps}"
        )
    return torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64, device="cpu")


def spaced_steps(total: int, sections: int | str) -> list[int]:
    """The timesteps of a `total`-step process that a shorter sampler keeps, ascending.

    `sections` is one of

    * `64`: that many steps at an even stride, first and last included;
    * `"10,10,3,2,2"`: the process cut into that many equal parts, so many evenly strided steps in each, the
      least noisy part first (GLIDE, 2112.10741, section 4: 27 steps for the upsamplers);
    * `"ddim50"`: an integer stride from 0 that gives exactly that many (DDIM, 2010.02502, appendix D.2).

    Steps are rounded half to even, as the published samplers do, so that the same steps are visited.

    Raises `ValueError` when the count cannot be met.
    """
    text = str(sections).strip()
    if text.startswith("ddim"):
        return _ddim_steps(total, _count(text[len("ddim") :], sections))
    counts = [_count(part, sections) for part in text.split(",")]
    size, longer = divmod(total, len(counts))
    steps: list[int] = []
    start = 0
    for i, count in enumerate(counts):
        length = size + (1 if i < longer else 0)
        if count > length:
            raise ValueError(
                f"spaced_steps: section {i} of {sections!r} asks for {count} steps, but {total} steps in "
                f"{len(counts)} sections leave {length} for it"
            )
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        # Accumulated, not multiplied: the rounding of halves then agrees with the published samplers.
        position = 0.0
        for _ in range(count):
            steps.append(start + round(position))
            position += stride
        start += length
    return steps


def _ddim_steps(total: int, count: int) -> list[int]:
    for stride in range(1, total + 1):
        steps = list(range(0, total, stride))
        if len(steps) == count:
            return steps
    raise ValueError(
        f"spaced_steps: no integer stride through {total} steps gives {count}; "
        f"give the number without 'ddim' for a fractional stride"
    )


def _count(text: str, sections: int | str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise ValueError(
            f"spaced_steps: expected a positive number, 'ddimN' or 'N,N,...', got {sections!r} (at {text!r})"
        )
    return int(text)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, got {steps}")
