"""Samplers: functions over a denoiser, from x_T down to x_0.

All take a `Diffusion` (usually `diffusion.spaced(...)`), a denoiser and the starting noise, and return x_0:

    process = diffusion.spaced(50)
    noise = SampleNoise(seed=0, count=4)
    image_m11 = ddim(process, denoise, noise.draw((3, 64, 64)))

A denoiser is called with x_t and the *original* timestep and returns the network's raw output, variance half
included.  Random numbers come from a `SampleNoise`, hence the same sample whatever the batch split.
No gradient is kept: a chain of hundreds of steps would hold every activation.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.diffusion.noise import SampleNoise
from models.diffusion.process import Diffusion, Prediction

Callback = Callable[[int, int, Tensor], None]
"""Called after each step with (steps done, steps in total, the current estimate of x_0)."""


@runtime_checkable
class Denoiser(Protocol):
    """A network with its conditions bound."""

    def __call__(
        self, x_t: Float[Tensor, "batch channels *spatial"], t: Int[Tensor, " batch"], /
    ) -> Float[Tensor, "batch out_channels *spatial"]: ...


Guide = Callable[[Tensor, Tensor], Tensor]
"""Called with x_t and the original timestep; returns the gradient in x_t of a log probability, scaled as
wanted: classifier guidance (2105.05233, section 4).  Classifier-free guidance is the denoiser's
(`models.diffusion.guidance.Guided`); both may be used at once."""


@torch.no_grad()
def ddpm(
    diffusion: Diffusion,
    denoise: Denoiser,
    x_T: Float[Tensor, "batch channels *spatial"],
    *,
    noise: SampleNoise,
    clip_x0: bool | float = True,
    guide: Guide | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "batch channels *spatial"]:
    """Ancestral sampling (2006.11239, algorithm 2) with the variance of the process or of the network.

    `guide` shifts the mean (`Diffusion.guided_mean`).
    """
    x = x_T
    for step in reversed(range(diffusion.num_steps)):
        prediction = _predict(diffusion, denoise, x, step, clip_x0)
        mean = prediction.mean
        if guide is not None:
            mean = diffusion.guided_mean(prediction, _full(step, x), _gradient(diffusion, guide, x, step))
        x = mean
        if step > 0:
            x = x + torch.exp(0.5 * prediction.log_variance) * noise.like(x)
        _report(callback, diffusion, step, prediction.x0)
    return x


@torch.no_grad()
def ddim(
    diffusion: Diffusion,
    denoise: Denoiser,
    x_T: Float[Tensor, "batch channels *spatial"],
    *,
    noise: SampleNoise | None = None,
    eta: float = 0.0,
    clip_x0: bool | float = True,
    guide: Guide | None = None,
    callback: Callback | None = None,
) -> Float[Tensor, "batch channels *spatial"]:
    """DDIM (2010.02502, eq. 12).  `eta` 0 is deterministic, 1 has the variance of DDPM; `eta` > 0 needs
    `noise`.  `guide` shifts epsilon (2105.05233, algorithm 2)."""
    if eta > 0 and noise is None:
        raise ValueError(f"ddim: eta={eta} draws noise at every step: give noise=SampleNoise(...), or eta=0")
    x = x_T
    for step in reversed(range(diffusion.num_steps)):
        prediction = _predict(diffusion, denoise, x, step, clip_x0)
        if guide is not None:
            gradient = _gradient(diffusion, guide, x, step)
            prediction = diffusion.with_score(prediction, x, _full(step, x), gradient)
        abar, abar_prev = diffusion.alphas_cumprod[step], diffusion.alphas_cumprod_prev[step]
        sigma = eta * ((1 - abar_prev) / (1 - abar)).sqrt() * (1 - abar / abar_prev).sqrt()
        direction = (1 - abar_prev - sigma**2).clamp(min=0).sqrt()
        x = prediction.x0 * abar_prev.sqrt().item() + prediction.epsilon * direction.item()
        if noise is not None and eta > 0 and step > 0:
            x = x + noise.like(x) * sigma.item()
        _report(callback, diffusion, step, prediction.x0)
    return x


@torch.no_grad()
def ddim_invert(
    diffusion: Diffusion,
    denoise: Denoiser,
    x_0: Float[Tensor, "batch channels *spatial"],
    *,
    callback: Callback | None = None,
) -> Float[Tensor, "batch channels *spatial"]:
    """The x_T from which `ddim` (eta 0, clip_x0 False, the same process) comes back to `x_0`, nearly.

    DDIM's step taken upwards (2105.05233, appendix F): epsilon is read at a step and assumed to hold up to
    the next.  `x_0` is taken for a sample at step 0, which it is but for that step's small noise.  The error
    falls with the number of steps; x_0 is not clipped, because what is cut off cannot be had back.
    """
    x = x_0
    for step in range(diffusion.num_steps):
        prediction = _predict(diffusion, denoise, x, step, clip_x0=False)
        if step + 1 < diffusion.num_steps:
            abar = diffusion.alphas_cumprod[step + 1]
            x = prediction.x0 * abar.sqrt().item() + prediction.epsilon * (1 - abar).sqrt().item()
        if callback is not None:
            callback(step + 1, diffusion.num_steps, prediction.x0)
    return x


@torch.no_grad()
def heun(
    diffusion: Diffusion,
    denoise: Denoiser,
    x_T: Float[Tensor, "batch channels *spatial"],
    *,
    clip_x0: bool | float = True,
    callback: Callback | None = None,
) -> Float[Tensor, "batch channels *spatial"]:
    """Heun's second-order method (2206.00364, algorithm 1 without churn), 2 * steps - 2 calls of the network.

    In y = x / sqrt(abar) and sigma = sqrt(1 / abar - 1) the probability flow is dy / dsigma = epsilon
    (2010.02502, eq. 14); epsilon is averaged over both ends of a step.  With one end only, Euler's method, it
    is `ddim` at eta 0.  The last step goes to sigma 0, where epsilon is not defined, and returns x_0.  The
    first is Euler's: sigma begins at 20,000 on the cosine schedule and falls by orders of magnitude in it.
    """
    abar = diffusion.alphas_cumprod
    sigma = (1 / abar - 1).sqrt()
    x = x_T
    for step in reversed(range(diffusion.num_steps)):
        here = _predict(diffusion, denoise, x, step, clip_x0)
        if step == 0:
            x = here.x0
        else:
            change = (sigma[step - 1] - sigma[step]).item()
            y = x / abar[step].sqrt().item()
            scale = abar[step - 1].sqrt().item()
            x = scale * (y + change * here.epsilon)
            if step + 1 < diffusion.num_steps:
                there = _predict(diffusion, denoise, x, step - 1, clip_x0)
                x = scale * (y + change * (here.epsilon + there.epsilon) / 2)
        _report(callback, diffusion, step, here.x0)
    return x


@torch.no_grad()
def dpm_solver_pp_2m(
    diffusion: Diffusion,
    denoise: Denoiser,
    x_T: Float[Tensor, "batch channels *spatial"],
    *,
    clip_x0: bool | float = True,
    callback: Callback | None = None,
) -> Float[Tensor, "batch channels *spatial"]:
    """DPM-Solver++(2M), a deterministic second-order multistep solver (2211.01095, algorithm 2).

    The first step is of first order: there is no earlier estimate to extrapolate from.  So is the step into
    timestep 0: in log signal-to-noise ratio it is several times longer than the one before it, and to
    extrapolate that far is worse than DDIM (measured on a Gaussian, 40 steps of either schedule).  Timestep 0
    then returns x_0, the solver's limit at zero noise.
    """
    abar = diffusion.alphas_cumprod
    log_snr = 0.5 * (abar.log() - (1 - abar).log())
    x, earlier = x_T, None
    for step in reversed(range(diffusion.num_steps)):
        x0 = _predict(diffusion, denoise, x, step, clip_x0).x0
        if step == 0:
            x = x0
        else:
            h = log_snr[step - 1] - log_snr[step]
            estimate = x0
            if earlier is not None and step > 1:
                ratio = ((log_snr[step] - log_snr[step + 1]) / h).item()
                estimate = x0 + (x0 - earlier) / (2 * ratio)
            sigma_ratio = ((1 - abar[step - 1]) / (1 - abar[step])).sqrt().item()
            x = sigma_ratio * x - (abar[step - 1].sqrt() * torch.expm1(-h)).item() * estimate
        earlier = x0
        _report(callback, diffusion, step, x0)
    return x


def _predict(
    diffusion: Diffusion, denoise: Denoiser, x: Tensor, step: int, clip_x0: bool | float
) -> Prediction:
    t = _full(step, x)
    return diffusion.predict(denoise(x, diffusion.original_timesteps(t)), x, t, clip_x0)


def _gradient(diffusion: Diffusion, guide: Guide, x: Tensor, step: int) -> Tensor:
    return guide(x, diffusion.original_timesteps(_full(step, x))).to(x.dtype)


def _full(step: int, x: Tensor) -> Tensor:
    return torch.full((x.shape[0],), step, device=x.device, dtype=torch.long)


def _report(callback: Callback | None, diffusion: Diffusion, step: int, x0: Tensor) -> None:
    if callback is not None:
        callback(diffusion.num_steps - step, diffusion.num_steps, x0)
