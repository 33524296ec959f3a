"""The diffusion process: one object owns the schedule, what the network predicts, and the losses.

Networks and samplers know nothing of each other: a network maps (x_t, t) to a raw output, this object reads
that output, and a sampler asks it for the next step.  `t` indexes this process' own steps, 0 the least noisy;
a network is always told `timestep_map[t]`, the step of the process it was trained with.
"""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from models.diffusion.schedule import spaced_steps

PredictionType = Literal["epsilon", "x0", "v"]
VarianceType = Literal["learned_range", "fixed_small", "fixed_large", "given"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a network's raw output says about x_t.  All four have the shape of x_t."""

    x0: Tensor
    epsilon: Tensor
    """The noise that goes with `x0`: derived anew when `x0` was clipped, so the two always agree."""
    log_variance: Tensor
    """Log variance of p(x_{t-1} | x_t), nats."""
    mean: Tensor
    """Mean of p(x_{t-1} | x_t)."""


@final
class Diffusion:
    """Gaussian diffusion over tensors of any shape [batch, channels, ...] (DDPM, 2006.11239).

    `prediction`: what the network outputs; "v" is sqrt(abar) eps - sqrt(1 - abar) x0 (2202.00512, section 4).
    `variance`: "learned_range" means the network's output carries a second half of channels that interpolates
    the log variance between its two bounds (2102.09672, eq. 15); the fixed ones are those bounds; "given" is
    made by `with_variance` alone.  `clip_range`: what |x0| does not exceed, where a sampler clamps it.
    """

    def __init__(
        self,
        betas: Float64[Tensor, " steps"],
        *,
        prediction: PredictionType,
        variance: VarianceType,
        clip_range: float = 1.0,
        timestep_map: Int[Tensor, " steps"] | None = None,
        given: Float64[Tensor, " steps"] | None = None,
    ) -> None:
        betas = betas.detach().cpu()
        if not bool(((betas > 0) & (betas <= 1)).all()):
            raise ValueError(
                f"Diffusion: every beta must lie in (0, 1], got [{betas.min():.3g}, {betas.max():.3g}]"
            )
        if (variance == "given") != (given is not None):
            raise ValueError(f"Diffusion: variance {variance!r} and a table of variances do not go together")
        self.betas = betas
        self.prediction: PredictionType = prediction
        self.variance: VarianceType = variance
        self.clip_range = clip_range
        if timestep_map is None:
            timestep_map = torch.arange(len(betas), device="cpu")
        self.timestep_map = timestep_map.detach().cpu()
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self.alphas_cumprod_prev = torch.cat([betas.new_ones(1), self.alphas_cumprod[:-1]])
        self._tables = self._build_tables()
        if given is not None:
            # Nothing is drawn at step 0, where the best variance may be 0: any finite logarithm will do.
            self._tables["log_given"] = given.detach().cpu().clamp(min=1e-20).log()
        self._on_device: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    @property
    def num_steps(self) -> int:
        return len(self.betas)

    def spaced(self, sections: int | str) -> "Diffusion":
        """The same process over the steps of `spaced_steps(num_steps, sections)` (2102.09672, eq. 19).

        The networks go on seeing their training timesteps, through `timestep_map`.  Raises `ValueError` on a
        process with given variances, which belong to its own steps.
        """
        if self.variance == "given":
            raise ValueError("Diffusion.spaced: given variances belong to these steps; respace first")
        keep = torch.tensor(sorted(set(spaced_steps(self.num_steps, sections))), device="cpu")
        kept = self.alphas_cumprod[keep]
        previous = torch.cat([kept.new_ones(1), kept[:-1]])
        return Diffusion(
            1 - kept / previous,
            prediction=self.prediction,
            variance=self.variance,
            clip_range=self.clip_range,
            timestep_map=self.timestep_map[keep],
        )

    def with_variance(self, variances: Float64[Tensor, " steps"]) -> "Diffusion":
        """The same process with a variance p(x_{t-1} | x_t) for each of its steps, whatever network it reads.

        Raises `ValueError` on a network's learned variance: its output has a second half to be interpreted.
        """
        if self.variance == "learned_range":
            raise ValueError("Diffusion.with_variance: the network of this process learned its variance")
        return Diffusion(
            self.betas,
            prediction=self.prediction,
            variance="given",
            clip_range=self.clip_range,
            timestep_map=self.timestep_map,
            given=variances,
        )

    def original_timesteps(self, t: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """What the network is told for the steps `t` of this process."""
        return self.timestep_map.to(t.device)[t]

    # ---- forward process -------------------------------------------------------------------------------

    def q_sample(
        self,
        x0: Float[Tensor, " batch *shape"],
        t: Int[Tensor, " batch"],
        noise: Float[Tensor, " batch *shape"],
    ) -> Float[Tensor, " batch *shape"]:
        """Draw x_t given x_0: sqrt(abar_t) x0 + sqrt(1 - abar_t) noise (2006.11239, eq. 4)."""
        return self._at("sqrt_abar", t, x0) * x0 + self._at("sqrt_1m_abar", t, x0) * noise

    def noise_to_level(
        self,
        x0: Float[Tensor, " batch *shape"],
        level: Float[Tensor, " batch"],
        noise: Float[Tensor, " batch *shape"],
    ) -> Float[Tensor, " batch *shape"]:
        """`x0` noised by a share `level` of the process: 0 leaves it as it is, 1 is the last step.

        Noise-conditioning augmentation of an upsampler's input (CDM, 2106.15282; Imagen, 2205.11487,
        section 2.4).  Levels between two steps are rounded to the nearer.  Raises `ValueError` on levels
        outside [0, 1]; on a GPU, where looking would wait for it, one above 1 fails in the lookup.
        """
        if level.device.type == "cpu" and not bool(((level >= 0) & (level <= 1)).all()):
            raise ValueError(f"Diffusion.noise_to_level: expected levels in [0, 1], got {level.tolist()[:8]}")
        abar = torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod]).to(x0.device)
        at_level = abar[(level * self.num_steps).round().long()].reshape(-1, *[1] * (x0.ndim - 1))
        return at_level.sqrt().to(x0.dtype) * x0 + (1 - at_level).sqrt().to(x0.dtype) * noise

    def q_posterior(
        self,
        x0: Float[Tensor, " batch *shape"],
        x_t: Float[Tensor, " batch *shape"],
        t: Int[Tensor, " batch"],
    ) -> tuple[Float[Tensor, " batch *shape"], Float[Tensor, " batch *shape"]]:
        """Mean and log variance of q(x_{t-1} | x_t, x_0) (2006.11239, eq. 6 and 7).

        The variance is 0 at t = 0; its logarithm there is taken from t = 1, as the published code does.
        """
        mean = self._at("posterior_x0", t, x_t) * x0 + self._at("posterior_xt", t, x_t) * x_t
        return mean, self._at("log_small", t, x_t).expand_as(x_t)

    # ---- reverse process -------------------------------------------------------------------------------

    def predict(
        self,
        network_output: Float[Tensor, "batch out_channels *spatial"],
        x_t: Float[Tensor, "batch channels *spatial"],
        t: Int[Tensor, " batch"],
        clip_x0: bool | float,
    ) -> Prediction:
        """Read a network's raw output at step `t`.

        `clip_x0`: True clamps x0 to the clip range, for pixels [-1, 1] (unCLIP's embeddings are not clamped).
        A number is Imagen's dynamic threshold, a quantile in (0, 1] (2205.11487, section 2.3; there 0.995):
        each sample is clamped to the quantile of its own |x0|, at least the range, and brought back into it.
        """
        output, log_variance = self._split(network_output, x_t, t)
        x0 = self._x0(output, x_t, t)
        x0 = _clipped(x0, clip_x0, self.clip_range)
        epsilon = (self._at("recip_sqrt_abar", t, x_t) * x_t - x0) / self._at("recipm1_sqrt_abar", t, x_t)
        mean, _ = self.q_posterior(x0, x_t, t)
        return Prediction(x0=x0, epsilon=epsilon, log_variance=log_variance, mean=mean)

    def output_for(
        self,
        x0: Float[Tensor, "batch channels *spatial"],
        x_t: Float[Tensor, "batch channels *spatial"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch channels *spatial"]:
        """What a network would output at `x_t`, variance half left aside, to say that x_0 is `x0`."""
        scaled = self._at("recip_sqrt_abar", t, x_t) * x_t - x0
        return self._target(x0, t, scaled / self._at("recipm1_sqrt_abar", t, x_t))

    def with_score(
        self,
        prediction: Prediction,
        x_t: Float[Tensor, " batch *shape"],
        t: Int[Tensor, " batch"],
        gradient: Float[Tensor, " batch *shape"],
    ) -> Prediction:
        """`prediction` with `gradient` added to its score: epsilon - sqrt(1 - abar) gradient (2105.05233,
        algorithm 2).  x0 and the mean follow from the new epsilon; x0 is not clipped again."""
        epsilon = prediction.epsilon - self._at("sqrt_1m_abar", t, x_t) * gradient
        x0 = self._at("recip_sqrt_abar", t, x_t) * x_t - self._at("recipm1_sqrt_abar", t, x_t) * epsilon
        mean, _ = self.q_posterior(x0, x_t, t)
        return Prediction(x0=x0, epsilon=epsilon, log_variance=prediction.log_variance, mean=mean)

    def guided_mean(
        self,
        prediction: Prediction,
        t: Int[Tensor, " batch"],
        gradient: Float[Tensor, " batch *shape"],
    ) -> Float[Tensor, " batch *shape"]:
        """Mean of p(x_{t-1} | x_t) shifted by variance times `gradient` (2105.05233, algorithm 1)."""
        variance = prediction.log_variance.exp()
        if self.variance == "fixed_small":
            # It is 0 at step 0; its logarithm there is that of step 1.
            variance = torch.where(t.reshape(-1, *[1] * (gradient.ndim - 1)) == 0, 0, variance)
        return prediction.mean + variance * gradient

    # ---- losses ----------------------------------------------------------------------------------------

    def training_losses(
        self,
        network_output: Float[Tensor, "batch out_channels *spatial"],
        x0: Float[Tensor, "batch channels *spatial"],
        x_t: Float[Tensor, "batch channels *spatial"],
        t: Int[Tensor, " batch"],
        noise: Float[Tensor, "batch channels *spatial"],
    ) -> Float[Tensor, " batch"]:
        """Loss of each sample, averaged over its elements.

        The mean squared error of what the network predicts; with a learned variance, the hybrid loss
        L_simple + 0.001 L_vlb (2102.09672, eq. 16).  L_vlb sums over all steps, so one sampled step stands
        for `num_steps` of them: the factor is num_steps / 1000, on bits per element.  The variational term
        trains the variance alone: the mean is detached in it.
        """
        output, _ = self._split(network_output, x_t, t)
        loss = _mean_per_sample((self._target(x0, t, noise) - output) ** 2)
        if self.variance != "learned_range":
            return loss
        channels = x_t.shape[1]
        frozen = torch.cat([network_output[:, :channels].detach(), network_output[:, channels:]], dim=1)
        return loss + self.variational_bound(frozen, x0, x_t, t) * (self.num_steps / 1000)

    def variational_bound(
        self,
        network_output: Float[Tensor, "batch out_channels *spatial"],
        x0: Float[Tensor, "batch channels *spatial"],
        x_t: Float[Tensor, "batch channels *spatial"],
        t: Int[Tensor, " batch"],
        *,
        clip_x0: bool = False,
    ) -> Float[Tensor, " batch"]:
        """One term of the variational bound, in bits per element (2006.11239, eq. 5).

        KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)); at t = 0 the negative log likelihood of x0 under the
        Gaussian discretised to 256 levels of [-1, 1].
        """
        prediction = self.predict(network_output, x_t, t, clip_x0)
        true_mean, true_log_variance = self.q_posterior(x0, x_t, t)
        log_ratio = prediction.log_variance - true_log_variance
        scaled_error = (true_mean - prediction.mean) ** 2 * torch.exp(-prediction.log_variance)
        kl = 0.5 * (-1.0 + log_ratio + torch.exp(-log_ratio) + scaled_error)
        nll = -_discretised_log_likelihood(x0, prediction.mean, 0.5 * prediction.log_variance)
        return torch.where(t == 0, _mean_per_sample(nll), _mean_per_sample(kl)) / math.log(2.0)

    # ---- internals -------------------------------------------------------------------------------------

    def _build_tables(self) -> dict[str, Tensor]:
        abar, abar_prev, betas = self.alphas_cumprod, self.alphas_cumprod_prev, self.betas
        small = betas * (1 - abar_prev) / (1 - abar)
        second = small[min(1, len(small) - 1)].reshape(1)
        # A one-step process has no second step to borrow from: beta itself is the other bound.
        first = second if bool(second > 0) else betas[:1]
        return {
            "sqrt_abar": abar.sqrt(),
            "sqrt_1m_abar": (1 - abar).sqrt(),
            "recip_sqrt_abar": (1 / abar).sqrt(),
            "recipm1_sqrt_abar": (1 / abar - 1).sqrt(),
            "posterior_x0": betas * abar_prev.sqrt() / (1 - abar),
            "posterior_xt": (1 - abar_prev) * (1 - betas).sqrt() / (1 - abar),
            "log_small": torch.cat([first, small[1:]]).log(),
            "log_beta": betas.log(),
            "log_large": torch.cat([first, betas[1:]]).log(),
        }

    def _at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Coefficient `name` at the steps `t`, shaped to broadcast against `like`.

        Tables are float64; a coefficient is rounded once, to the dtype it is used in (at least float32).
        """
        dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
        key = (name, t.device, dtype)
        if key not in self._on_device:
            self._on_device[key] = self._tables[name].to(dtype).to(t.device)
        return self._on_device[key][t].reshape(-1, *[1] * (like.ndim - 1))

    def _split(self, network_output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        channels = x_t.shape[1]
        expected = 2 * channels if self.variance == "learned_range" else channels
        if network_output.shape[1] != expected:
            raise ValueError(
                f"Diffusion: variance {self.variance!r} expects {expected} output channels for {channels} "
                f"channels of x_t, got {network_output.shape[1]}; network and process disagree on it"
            )
        # Under autocast the output is half precision; the process always computes in the precision of x_t.
        network_output = network_output.to(x_t.dtype)
        if self.variance == "learned_range":
            output, raw = network_output.split(channels, dim=1)
            fraction = (raw + 1) / 2
            low, high = self._at("log_small", t, x_t), self._at("log_beta", t, x_t)
            return output, fraction * high + (1 - fraction) * low
        name = {"fixed_small": "log_small", "fixed_large": "log_large"}.get(self.variance, "log_given")
        return network_output, self._at(name, t, x_t).expand_as(x_t)

    def _x0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        if self.prediction == "x0":
            return output
        if self.prediction == "v":
            return self._at("sqrt_abar", t, x_t) * x_t - self._at("sqrt_1m_abar", t, x_t) * output
        return self._at("recip_sqrt_abar", t, x_t) * x_t - self._at("recipm1_sqrt_abar", t, x_t) * output

    def _target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        if self.prediction == "x0":
            return x0
        if self.prediction == "v":
            return self._at("sqrt_abar", t, x0) * noise - self._at("sqrt_1m_abar", t, x0) * x0
        return noise


def _clipped(x0: Tensor, clip_x0: bool | float, clip_range: float) -> Tensor:
    if isinstance(clip_x0, bool):
        return x0.clamp(-clip_range, clip_range) if clip_x0 else x0
    if not 0 < clip_x0 <= 1:
        raise ValueError(f"clip_x0: expected True, False or a quantile in (0, 1], got {clip_x0}")
    limit = torch.quantile(x0.abs().flatten(1).float(), clip_x0, dim=1).clamp(min=clip_range).to(x0.dtype)
    limit = limit.reshape(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-limit, limit) / (limit / clip_range)


def _mean_per_sample(x: Tensor) -> Tensor:
    return x.flatten(1).mean(dim=1)


def _normal_cdf(x: Tensor) -> Tensor:
    # The tanh approximation, not erf: the published losses use it, and the variance head was tuned with it.
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log likelihood in nats of 8-bit images in [-1, 1] under a Gaussian (2006.11239, eq. 13)."""
    centred, inverse_scale = x - mean, torch.exp(-log_scale)
    below_upper = _normal_cdf(inverse_scale * (centred + 1 / 255))
    below_lower = _normal_cdf(inverse_scale * (centred - 1 / 255))
    inside = torch.where(
        x > 0.999,
        1 - below_lower,
        below_upper - below_lower,
    )
    return torch.where(x < -0.999, below_upper, inside).clamp(min=1e-12).log()
