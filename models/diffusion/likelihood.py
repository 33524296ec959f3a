"""How likely data are under a trained process: the whole variational bound (2006.11239, eq. 5)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from models.diffusion.noise import SampleNoise
from models.diffusion.process import Diffusion
from models.diffusion.samplers import Denoiser


@torch.no_grad()
def bits_per_element(
    diffusion: Diffusion,
    denoise: Denoiser,
    x0: Float[Tensor, "batch channels *spatial"],
    *,
    noise: SampleNoise,
    clip_x0: bool = True,
) -> Float[Tensor, " batch"]:
    """Upper bound of -log2 p(x0) over the number of elements, one draw of noise a step.

    For 8-bit images in [-1, 1] it compares with what others report as bits per dimension; its network is
    called once for every step of the process.
    """
    total = prior_bits(diffusion, x0)
    for step in reversed(range(diffusion.num_steps)):
        t = torch.full((len(x0),), step, device=x0.device, dtype=torch.long)
        x_t = diffusion.q_sample(x0, t, noise.like(x0))
        output = denoise(x_t, diffusion.original_timesteps(t))
        total = total + diffusion.variational_bound(output, x0, x_t, t, clip_x0=clip_x0)
    return total


def prior_bits(diffusion: Diffusion, x0: Float[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
    """KL(q(x_T | x_0) || N(0, 1)) in bits per element: what no network can win back."""
    abar = diffusion.alphas_cumprod[-1].item()
    variance = 1 - abar
    kl = 0.5 * (variance + abar * x0**2 - 1 - math.log(variance))
    return kl.flatten(1).mean(dim=1) / math.log(2)
