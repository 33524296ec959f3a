"""Classifier-free guidance as a wrapper around a network."""

from collections.abc import Callable, Mapping
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

ConditionedNetwork = Callable[..., Tensor]
"""Called with x_t, the original timestep and its conditions by name, one row of each a sample."""


@final
class Guided:
    """out(null) + scale * (out(condition) - out(null)) (GLIDE, 2112.10741, eq. 5), as a denoiser for the
    samplers.

    Both branches run in one forward of twice the batch.  Only the mean half of the output is guided; the
    variance half, where there is one, is the conditional branch's.  Guiding epsilon, x0 or v is the same:
    each is an affine function of the others at a given x_t.  At scale 1 the null branch has no weight and is
    not run.

    The samplers hold x_t in fp32 whatever the networks' precision: the network is given it in that of its
    conditions, and its output goes back to x_t's where the process reads it.

        denoise = Guided(decoder.denoise, {"time_shift": a, "context": b}, {"time_shift": a0, "context": b0},
        3.0)
    """

    def __init__(
        self,
        network: ConditionedNetwork,
        conditional: Mapping[str, Tensor],
        unconditional: Mapping[str, Tensor],
        scale: float,
    ) -> None:
        if conditional.keys() != unconditional.keys():
            raise ValueError(
                f"Guided: both branches need the same conditions, got "
                f"{sorted(conditional)} and {sorted(unconditional)}"
            )
        self.network = network
        self.scale = scale
        self._conditional = dict(conditional)
        self._dtype = next((v.dtype for v in conditional.values() if v.is_floating_point()), None)
        self._both = (
            {k: torch.cat([conditional[k], unconditional[k]]) for k in conditional} if scale != 1 else {}
        )

    def __call__(
        self, x_t: Float[Tensor, "batch channels *spatial"], t: Int[Tensor, " batch"], /
    ) -> Float[Tensor, "batch out_channels *spatial"]:
        x_t = x_t if self._dtype is None else x_t.to(self._dtype)
        if self.scale == 1:
            return self.network(x_t, t, **self._conditional)
        output = self.network(torch.cat([x_t, x_t]), torch.cat([t, t]), **self._both)
        conditional, unconditional = output.chunk(2)
        channels = x_t.shape[1]
        mean, null_mean = conditional[:, :channels], unconditional[:, :channels]
        guided = null_mean + self.scale * (mean - null_mean)
        return torch.cat([guided, conditional[:, channels:]], dim=1)
