"""How each stage of the cascade is sampled: settings (JSON-safe, no torch needed to read them) and their
use."""

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Literal

from models.config import UnCLIPConfig, UpsamplerConfig
from models.config_base import Config, check_positive

if TYPE_CHECKING:
    import torch

    import models.diffusion.analytic
    import models.diffusion.noise
    import models.diffusion.process
    import models.diffusion.samplers


_COUNT = r"\s*0*[1-9][0-9]*\s*"
_STEPS = re.compile(rf"\s*ddim{_COUNT}|{_COUNT}(,{_COUNT})*")
"""What `spaced_steps` takes, for a process of enough steps: known before torch is loaded."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StageSampling(Config):
    """Sampler, steps and guidance of one stage."""

    sampler: Literal["ddpm", "ddim", "heun", "dpm_solver_pp_2m"] = "ddim"
    steps: int | str = 50
    """As `spaced_steps` takes them: 64, "10,10,3,2,2" or "ddim50"."""
    guidance: float = 1.0
    eta: float = 0.0
    """Of DDIM: 0 deterministic, 1 as random as DDPM."""
    variance: Literal["model", "analytic"] = "model"
    """Of DDPM: the process's or the network's own, or the best for this network at these steps
    (Analytic-DPM), which is estimated once for a model."""
    dynamic_threshold: float | None = None
    """Imagen's quantile (2205.11487, section 2.3; there 0.995) for stages that make pixels; None clamps to
    [-1, 1].  What lets guidance be strong without burnt colours."""
    noise_level: float = 0.0
    """Of upsamplers with noise conditioning: how much noise is added to their input, 0 none, 1 nothing but
    noise.  Imagen: 0.1 to 0.3 are best (2205.11487, section 2.4)."""

    tile: int | None = None
    """Of upsamplers: side in pixels of the overlapping tiles that the network runs over, where memory is
    short (`models.tiling`); None: the whole picture at once."""

    def __post_init__(self) -> None:
        if self.tile is not None:
            check_positive(self, "tile")
        if not _STEPS.fullmatch(str(self.steps)):
            raise ValueError(
                f"StageSampling.steps: expected a positive number, 'ddimN' or 'N,N,...', got {self.steps!r}"
            )
        if not (0 <= self.guidance < math.inf and 0 <= self.eta < math.inf):
            raise ValueError(
                f"StageSampling: guidance and eta must be numbers of at least 0, got {self.guidance} and "
                f"{self.eta}"
            )
        if not 0 <= self.noise_level <= 1:
            raise ValueError(f"StageSampling: noise_level must lie in [0, 1], got {self.noise_level}")
        if self.dynamic_threshold is not None and not 0 < self.dynamic_threshold <= 1:
            raise ValueError(
                f"StageSampling: dynamic_threshold must lie in (0, 1], got {self.dynamic_threshold}"
            )
        if self.eta > 0 and self.sampler != "ddim":
            raise ValueError(
                f"StageSampling: eta belongs to sampler 'ddim', got {self.eta} with {self.sampler!r}"
            )
        if self.variance == "analytic" and self.sampler != "ddpm":
            raise ValueError(
                f"StageSampling: variance 'analytic' belongs to sampler 'ddpm', got {self.sampler!r}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CascadeSampling(Config):
    """Sampling of the whole cascade.  The defaults are unCLIP's (2204.06125, Table 3 and sections 2.2 and
    5.2).  Of `prior`, an autoregressive prior takes the guidance alone."""

    prior: StageSampling = StageSampling(sampler="ddpm", steps=64, variance="analytic")
    decoder: StageSampling = StageSampling(sampler="ddpm", steps=250, guidance=1.25)
    upsamplers: tuple[StageSampling, ...] = (StageSampling(steps="10,10,3,2,2"), StageSampling(steps=15))
    prior_candidates: int = 2
    """Image embeddings drawn for each sample; the one of the largest dot product with the text embedding is
    kept.  The paper draws two from the diffusion prior, one from the autoregressive, which is told the dot
    product."""

    def __post_init__(self) -> None:
        if self.prior_candidates < 1:
            raise ValueError(
                f"CascadeSampling.prior_candidates: expected at least 1, got {self.prior_candidates}"
            )
        if self.prior.tile is not None or self.decoder.tile is not None:
            raise ValueError(
                "CascadeSampling: prior and decoder see the whole at once; tile belongs to upsamplers"
            )
        if any(stage.variance == "analytic" for stage in (self.decoder, *self.upsamplers)):
            raise ValueError("CascadeSampling: variance 'analytic' is estimated for the prior alone")
        if self.prior.noise_level or self.decoder.noise_level:
            raise ValueError("CascadeSampling: noise_level is of upsamplers; prior and decoder have no input")
        if self.prior.dynamic_threshold is not None:
            raise ValueError(
                "CascadeSampling.prior: embeddings are not pixels, dynamic_threshold must be null"
            )


def check_upsamplers(settings: tuple[StageSampling, ...], networks: tuple[UpsamplerConfig, ...]) -> None:
    """Raises `ValueError` where the settings do not fit the networks."""
    if len(settings) < len(networks):
        raise ValueError(f"sampling.upsamplers: {len(networks)} upsamplers, settings for {len(settings)}")
    for i, (stage, network) in enumerate(zip(settings, networks, strict=False)):
        if stage.guidance != 1 and network.text is None:
            raise ValueError(
                f"sampling.upsamplers[{i}]: this upsampler reads no text, guidance must be 1, got "
                f"{stage.guidance}"
            )
        if stage.noise_level and not network.noise_conditioning:
            raise ValueError(
                f"sampling.upsamplers[{i}]: this upsampler was not trained with noise conditioning, "
                f"noise_level must be 0, got {stage.noise_level}"
            )


def check_cascade(settings: CascadeSampling, config: UnCLIPConfig) -> None:
    """Raises `ValueError` where the settings do not fit the networks of a cascade or their processes.

    Analytic variance is not looked at: it takes estimates, not only a configuration.
    """
    from models.diffusion.schedule import spaced_steps

    check_upsamplers(settings.upsamplers, config.upsamplers)
    upsamplers = zip(settings.upsamplers, config.upsampler_diffusions, strict=False)
    stages = {
        "prior": (settings.prior, config.prior_diffusion),
        "decoder": (settings.decoder, config.decoder_diffusion),
        **{f"upsamplers[{i}]": stage for i, stage in enumerate(upsamplers)},
    }
    for name, (stage, diffusion) in stages.items():
        if diffusion is None:
            continue
        try:
            spaced_steps(diffusion.steps, stage.steps)
        except ValueError as error:
            raise ValueError(f"sampling.{name}.steps: {error}") from None


def sample(
    settings: StageSampling,
    diffusion: "models.diffusion.process.Diffusion",
    denoise: "models.diffusion.samplers.Denoiser",
    x_T: "torch.Tensor",
    *,
    noise: "models.diffusion.noise.SampleNoise",
    clip_x0: bool,
    guide: "models.diffusion.samplers.Guide | None" = None,
    callback: "models.diffusion.samplers.Callback | None" = None,
    powers: "models.diffusion.analytic.NoisePowers | None" = None,
) -> "torch.Tensor":
    """Run the sampler that `settings` names over `diffusion` respaced to its steps; classifier-free guidance
    is the denoiser's.

    `guide`: see `models.diffusion.samplers.Guide`; only "ddpm" and "ddim" take one, the others raise
    `ValueError`.  `powers`: what analytic variance needs.
    """
    from models.diffusion import samplers

    if guide is not None and settings.sampler not in ("ddpm", "ddim"):
        raise ValueError(f"sample: a guide needs sampler 'ddpm' or 'ddim', got {settings.sampler!r}")
    process = diffusion.spaced(settings.steps)
    if settings.variance == "analytic":
        if powers is None:
            raise ValueError("sample: variance 'analytic' needs the noise powers of the network, got none")
        process = powers.analytic(process, settings.steps)
    clip: bool | float = clip_x0
    if clip_x0 and settings.dynamic_threshold is not None:
        clip = settings.dynamic_threshold
    if settings.sampler == "ddpm":
        return samplers.ddpm(process, denoise, x_T, noise=noise, clip_x0=clip, guide=guide, callback=callback)
    if settings.sampler == "ddim":
        return samplers.ddim(
            process, denoise, x_T, noise=noise, eta=settings.eta, clip_x0=clip, guide=guide, callback=callback
        )
    if settings.sampler == "heun":
        return samplers.heun(process, denoise, x_T, clip_x0=clip, callback=callback)
    return samplers.dpm_solver_pp_2m(process, denoise, x_T, clip_x0=clip, callback=callback)
