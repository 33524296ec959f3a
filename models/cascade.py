"""unCLIP composed (2204.06125): caption -> prior -> image embedding -> decoder -> upsamplers -> image.

n samples, d embedding width, L text length, H W sides.  Tokens and text embeddings come from the caller:
which tokenizer and which encoder made them is the business of whoever registered the model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.config import UnCLIPConfig
from models.diffusion.analytic import NoisePowers
from models.diffusion.guidance import Guided
from models.diffusion.noise import SampleNoise
from models.diffusion.samplers import Callback, Guide
from models.prior import DiffusionPrior
from models.sampling import CascadeSampling, StageSampling, check_upsamplers, sample
from models.upsampler import Upsampler

Progress = Callable[[str, int, int, Tensor], None]
"""Called with (stage, steps done, steps in total, current estimate of x_0); stages: prior, decoder,
upsampler0, ..."""

PriorSampler = Callable[..., Tensor]
"""Called with text, its mask and its embedding, and by name with `settings`, `noise` and `callback`; returns
image embeddings, a row each.  Each prior has its own: `sample`."""

PRIOR_STREAM, DECODER_STREAM, UPSAMPLER_STREAM = 0, 1, 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """Every stage's output, samples of one prompt next to each other."""

    image_embeddings: Float[Tensor, "n d"] | None
    """Of the prior, of unit norm unless it is one of standardised embeddings; None where there is no
    prior."""
    images_m11: tuple[Float[Tensor, "n 3 _h _w"], ...]
    """Of the decoder and each upsampler, in [-1, 1]."""


@final
class UnCLIP(nn.Module):
    """The cascade.  Each stage is also a method of its own, for evaluation and manipulation.

    The random numbers of sample i are its own: `first_index` continues the count over several calls, so that
    a run of 100 samples cut anywhere gives the same 100 samples (up to the last bits, in which kernels differ
    by batch size).
    """

    def __init__(self, config: UnCLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.prior = None if config.prior is None else config.prior.build()
        self.decoder = config.decoder.build()
        self.upsamplers = nn.ModuleList([c.build() for c in config.upsamplers])
        self.prior_diffusion = None if config.prior_diffusion is None else config.prior_diffusion.build()
        self.prior_sampler = self._prior_sampler()
        self.decoder_diffusion = config.decoder_diffusion.build()
        self.upsampler_diffusions = [c.build() for c in config.upsampler_diffusions]

    def _prior_sampler(self) -> PriorSampler | None:
        """What either prior is called by; None where there is none."""
        if not isinstance(self.prior, DiffusionPrior):
            return None if self.prior is None else self.prior.sample
        assert self.prior_diffusion is not None  # checked
        self.noise_powers = NoisePowers(
            self.prior_diffusion, self.config.prior_noise_powers, data_variance=self.prior.data_variance
        )
        return partial(self.prior.sample, diffusion=self.prior_diffusion, powers=self.noise_powers)

    @torch.no_grad()
    def generate(
        self,
        text_tokens: Int[Tensor, "prompts L"] | Float[Tensor, "prompts L c"],
        text_mask: Bool[Tensor, "prompts L"],
        text_embedding: Float[Tensor, "prompts d"] | None = None,
        *,
        seed: int,
        samples: int = 1,
        sampling: CascadeSampling | None = None,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Generated:
        """`samples` images of each prompt, in the order of the prompts.

        `text_embedding` is the encoder's, of unit norm; a cascade without prior may do without.  Put the
        networks in `eval()` first: dropout is theirs.  Raises `ValueError` on shapes the networks do not
        take, on numbers that are not finite, and when `sampling` does not fit the upsamplers.
        """
        sampling = sampling or CascadeSampling()
        check_upsamplers(sampling.upsamplers, self.config.upsamplers)
        draw: dict[str, Any] = {"seed": seed, "first_index": first_index, "progress": progress}
        tokens, mask = (x.repeat_interleave(samples, dim=0) for x in (text_tokens, text_mask))
        embedding, z = text_embedding, None
        if embedding is not None:
            embedding = embedding.repeat_interleave(samples, dim=0)
        if self.prior is not None:
            if embedding is None:
                raise ValueError("UnCLIP.generate: the prior reads a text embedding, got none")
            candidates = sampling.prior_candidates
            z = self.sample_prior(
                tokens, mask, embedding, settings=sampling.prior, candidates=candidates, **draw
            )
        pooled = None if self.config.decoder.text_pooled_dim is None else embedding
        images = [self.decode(z, tokens, mask, settings=sampling.decoder, text_pooled=pooled, **draw)]
        for stage in range(len(self.upsamplers)):
            settings = sampling.upsamplers[stage]
            images.append(self.upsample(images[-1], stage, tokens, mask, settings=settings, **draw))
        return Generated(image_embeddings=z, images_m11=tuple(images))

    @torch.no_grad()
    def sample_prior(
        self,
        text_tokens: Int[Tensor, "n L"] | Float[Tensor, "n L c"],
        text_mask: Bool[Tensor, "n L"],
        text_embedding: Float[Tensor, "n d"],
        *,
        seed: int,
        settings: StageSampling,
        candidates: int = 2,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n d"]:
        """Image embeddings: of `candidates` draws the one of the largest dot product with the text embedding
        (section 2.2).  Their norm is what the prior's own `sample` says."""
        if self.prior_sampler is None:
            raise ValueError("UnCLIP.sample_prior: this cascade has no prior")
        _check_finite("text_embedding", text_embedding)
        inputs = (text_tokens, text_mask, text_embedding)
        conditions = [x.repeat_interleave(candidates, dim=0) for x in inputs]
        count = len(text_embedding) * candidates
        noise = SampleNoise(seed, count, first=first_index * candidates, stream=PRIOR_STREAM)
        z = self.prior_sampler(
            *conditions, settings=settings, noise=noise, callback=_named(progress, "prior")
        )
        by_sample = z.reshape(-1, candidates, z.shape[1])
        best = torch.einsum("ncd,nd->nc", by_sample, text_embedding).argmax(dim=1)
        return by_sample[torch.arange(len(best), device=best.device), best]

    @torch.no_grad()
    def decode(
        self,
        image_embedding: Float[Tensor, "n d"] | None,
        text_tokens: Int[Tensor, "n L"] | Float[Tensor, "n L c"],
        text_mask: Bool[Tensor, "n L"],
        *,
        seed: int,
        settings: StageSampling,
        text_pooled: Float[Tensor, "n p"] | None = None,
        x_T: Float[Tensor, "n 3 H W"] | None = None,
        guide: Guide | None = None,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n 3 H W"]:
        """Images in [-1, 1] at the decoder's size.  Guided away from the branch without embedding and
        caption.  `x_T`: the noise to begin with, as from `models.manipulation.invert`; drawn if not given.
        `guide`: classifier guidance beside it, such as `models.noised_clip.clip_guide`.  `image_embedding` is
        None for a decoder that reads none."""
        dtype = torch.get_default_dtype()
        if image_embedding is not None:
            _check_finite("image_embedding", image_embedding)
            dtype = image_embedding.dtype
        noise = SampleNoise(seed, len(text_mask), first=first_index, stream=DECODER_STREAM)
        size = self.decoder.config.image_size
        drawn = noise.draw((3, size, size), device=text_mask.device, dtype=dtype)
        denoise = self.guided_decoder(image_embedding, text_tokens, text_mask, settings.guidance, text_pooled)
        return sample(
            settings,
            self.decoder_diffusion,
            denoise,
            drawn if x_T is None else x_T,
            noise=noise,
            clip_x0=True,
            guide=guide,
            callback=_named(progress, "decoder"),
        ).clamp(-1, 1)

    def guided_decoder(
        self,
        image_embedding: Float[Tensor, "n d"] | None,
        text_tokens: Int[Tensor, "n L"] | Float[Tensor, "n L c"],
        text_mask: Bool[Tensor, "n L"],
        guidance: float,
        text_pooled: Float[Tensor, "n p"] | None = None,
    ) -> Guided:
        """The decoder with its conditions bound, as samplers take it."""
        everything = torch.ones(len(text_mask), dtype=torch.bool, device=text_mask.device)
        condition = partial(
            self.decoder.condition, image_embedding, text_tokens, text_mask, text_pooled=text_pooled
        )
        conditional, null = condition(), condition(everything, everything)
        return Guided(self.decoder.denoise, conditional.as_kwargs(), null.as_kwargs(), guidance)

    @torch.no_grad()
    def upsample(
        self,
        low_res: Float[Tensor, "n 3 h w"],
        stage: int,
        text_tokens: Int[Tensor, "n L"] | Float[Tensor, "n L c"] | None = None,
        text_mask: Bool[Tensor, "n L"] | None = None,
        *,
        seed: int,
        settings: StageSampling,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n 3 H W"]:
        """Images in [-1, 1] at `low_res`'s size times the scale of upsampler `stage`, which need not be
        square.  An upsampler that reads no text ignores it.

        With noise conditioning `low_res` is noised to `settings.noise_level` first, by the stage's process.
        """
        _check_finite("low_res", low_res)
        config, process = self.config.upsamplers[stage], self.upsampler_diffusions[stage]
        check_upsamplers((settings,), (config,))
        shape = (3, low_res.shape[2] * config.scale, low_res.shape[3] * config.scale)
        noise = SampleNoise(seed, len(low_res), first=first_index, stream=UPSAMPLER_STREAM + stage)
        x_T = noise.draw(shape, device=low_res.device, dtype=low_res.dtype)
        level = None
        if config.noise_conditioning:
            level = low_res.new_full((len(low_res),), settings.noise_level)
            low_res = process.noise_to_level(low_res, level, noise.like(low_res))
        return sample(
            settings,
            process,
            self._guided_upsampler(stage, low_res, level, text_tokens, text_mask, settings.guidance),
            x_T,
            noise=noise,
            clip_x0=True,
            callback=_named(progress, f"upsampler{stage}"),
        ).clamp(-1, 1)

    def _guided_upsampler(
        self,
        stage: int,
        low_res: Tensor,
        level: Tensor | None,
        text: Tensor | None,
        mask: Tensor | None,
        guidance: float,
    ) -> Guided:
        upsampler = self.upsamplers[stage]
        assert isinstance(upsampler, Upsampler)
        if upsampler.config.text is None:
            text = mask = None
        conditional = {"low_res": low_res, **upsampler.condition(level, text, mask)}
        null = conditional
        if guidance != 1:
            everything = torch.ones(len(low_res), dtype=torch.bool, device=low_res.device)
            null = {"low_res": low_res, **upsampler.condition(level, text, mask, everything)}
        return Guided(upsampler.denoise, conditional, null, guidance)


def _named(progress: Progress | None, stage: str) -> Callback | None:
    return None if progress is None else partial(progress, stage)


def _check_finite(name: str, x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        rows = (~torch.isfinite(x)).flatten(1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"UnCLIP: expected finite {name}, got NaN or infinity in rows {rows[:8]}")
