"""Analytic-DPM (2201.06503): the variance of the reverse steps that is best for a given network.

Two parts: the network's mean squared noise estimate at every step is measured once on data
(`noise_power`), and any respacing of the process takes its variances from that (`with_analytic_variance`):

    process = diffusion.spaced(64)
    power = noise_power(process, [(x0, denoise)], seed=0)
    sample = ddpm(with_analytic_variance(process, power), denoise, x_T, noise=noise)

`NoisePowers` keeps what was measured beside the weights it is of.
"""

from collections.abc import Callable, Iterable
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from models.diffusion.noise import SampleNoise
from models.diffusion.process import Diffusion
from models.diffusion.samplers import Denoiser


@torch.no_grad()
def noise_power(
    diffusion: Diffusion, batches: Iterable[tuple[Tensor, Denoiser]], *, seed: int
) -> Float64[Tensor, " steps"]:
    """E ||epsilon(x_t, t)||^2 / d at every step of `diffusion`, over all samples of `batches`.

    A batch is x_0, [n, *shape], with a denoiser whose conditions belong to it; the network is called once a
    step and batch.
    Raises `ValueError` where there is no sample.
    """
    total = torch.zeros(diffusion.num_steps, dtype=torch.float64)
    count = 0
    for x0, denoise in batches:
        noise = SampleNoise(seed=seed, count=len(x0), first=count)
        for step in range(diffusion.num_steps):
            t = torch.full((len(x0),), step, device=x0.device, dtype=torch.long)
            x_t = diffusion.q_sample(x0, t, noise.like(x0))
            output = denoise(x_t, diffusion.original_timesteps(t))
            epsilon = diffusion.predict(output, x_t, t, clip_x0=False).epsilon
            total[step] += epsilon.double().square().flatten(1).mean(dim=1).sum().cpu()
        count += len(x0)
    if count == 0:
        raise ValueError("noise_power: expected at least one sample to estimate from, got none")
    return total / count


def with_analytic_variance(
    diffusion: Diffusion, power: Float64[Tensor, " steps"], *, data_variance: float = 1.0
) -> Diffusion:
    """`diffusion` with the optimal variances of its own steps, which may skip steps of training.

    The variance of q(x_s | x_t, x_0), plus what of x_0 the network cannot know at x_t.  That part is clamped
    to [0, `data_variance`]: an estimate may leave the range, and no x_0 varies more than the data do (1 for
    pixels in [-1, 1]; for a prior's scaled embeddings their variance per dimension, 0.29).
    """
    abar, abar_prev, betas = diffusion.alphas_cumprod, diffusion.alphas_cumprod_prev, diffusion.betas
    unknown = ((1 - abar) / abar * (1 - power)).clamp(0, data_variance)
    variance = betas * (1 - abar_prev) / (1 - abar) + abar_prev * (betas / (1 - abar)) ** 2 * unknown
    return diffusion.with_variance(variance)


@final
class NoisePowers(nn.Module):
    """Noise powers of a network at some respacings of its process: a buffer each, by the respacing's name."""

    def __init__(self, diffusion: Diffusion, respacings: Iterable[str], *, data_variance: float) -> None:
        super().__init__()
        self.data_variance = data_variance
        for respacing in respacings:
            steps = diffusion.spaced(respacing).num_steps
            self.register_buffer(respacing, torch.ones(steps, dtype=torch.float64, device="cpu"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "NoisePowers":  # noqa: ARG002
        # These are tables of the process, which computes in float64 on the CPU: rounded to the precision that
        # a network is moved to, 1 - power would be noise.
        return self

    def analytic(self, process: Diffusion, steps: int | str) -> Diffusion:
        """`process`, which is respaced to `steps`, with the variances that are best for the network.

        Raises `ValueError` where that respacing was not measured.
        """
        known = dict(self.named_buffers())
        if str(steps) not in known:
            raise ValueError(
                f"no analytic variance was estimated for {steps!r} steps, only for "
                f"{', '.join(sorted(known)) or 'none'}: sample with those or with variance 'model', or train "
                f"the prior with {steps!r} among its analytic_steps"
            )
        return with_analytic_variance(process, known[str(steps)].cpu(), data_variance=self.data_variance)
