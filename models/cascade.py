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
from models.diffusion.process import Diffusion
from models.diffusion.samplers import Callback
from models.prior import DiffusionPrior
from models.sampling import CascadeSampling, StageSampling, sample
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

    image_embeddings: Float[Tensor, "n d"]
    """Of the prior, of unit norm unless it is one of standardised embeddings."""
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
        self.prior = config.prior.build()
        self.prior_diffusion: Diffusion | None = None
        self.prior_sampler: PriorSampler = self.prior.sample
        if isinstance(self.prior, DiffusionPrior):
            assert config.prior_diffusion is not None  # checked
            self.prior_diffusion = config.prior_diffusion.build()
            self.noise_powers = NoisePowers(
                self.prior_diffusion, config.prior_noise_powers, data_variance=self.prior.data_variance
            )
            self.prior_sampler = partial(
                self.prior.sample, diffusion=self.prior_diffusion, powers=self.noise_powers
            )
        self.decoder = config.decoder.build()
        self.upsamplers = nn.ModuleList([c.build() for c in config.upsamplers])
        self.decoder_diffusion = config.decoder_diffusion.build()
        self.upsampler_diffusions = [c.build() for c in config.upsampler_diffusions]

    @torch.no_grad()
    def generate(
        self,
        text_tokens: Int[Tensor, "prompts L"] | Float[Tensor, "prompts L c"],
        text_mask: Bool[Tensor, "prompts L"],
        text_embedding: Float[Tensor, "prompts d"],
        *,
        seed: int,
        samples: int = 1,
        sampling: CascadeSampling | None = None,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Generated:
        """`samples` images of each prompt, in the order of the prompts.

        `text_embedding` is the encoder's, of unit norm.  Put the networks in `eval()` first: dropout is
        theirs. Raises `ValueError` on shapes the networks do not take, on numbers that are not finite, and
        when `sampling` has fewer upsampler settings than there are upsamplers.
        """
        sampling = sampling or CascadeSampling()
        if len(sampling.upsamplers) < len(self.upsamplers):
            raise ValueError(
                f"UnCLIP.generate: {len(self.upsamplers)} upsamplers, settings for {len(sampling.upsamplers)}"
            )
        draw: dict[str, Any] = {"seed": seed, "first_index": first_index, "progress": progress}
        inputs = (text_tokens, text_mask, text_embedding)
        tokens, mask, embedding = (x.repeat_interleave(samples, dim=0) for x in inputs)
        candidates = sampling.prior_candidates
        z = self.sample_prior(tokens, mask, embedding, settings=sampling.prior, candidates=candidates, **draw)
        pooled = None if self.config.decoder.text_pooled_dim is None else embedding
        images = [self.decode(z, tokens, mask, settings=sampling.decoder, text_pooled=pooled, **draw)]
        for stage in range(len(self.upsamplers)):
            images.append(self.upsample(images[-1], stage, settings=sampling.upsamplers[stage], **draw))
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
        """Image embeddings: of `candidates` draws the one of the largest dot product with the
        text embedding (section 2.2).  Their norm is what the prior's own `sample` says."""
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
        image_embedding: Float[Tensor, "n d"],
        text_tokens: Int[Tensor, "n L"] | Float[Tensor, "n L c"],
        text_mask: Bool[Tensor, "n L"],
        *,
        seed: int,
        settings: StageSampling,
        text_pooled: Float[Tensor, "n p"] | None = None,
        x_T: Float[Tensor, "n 3 H W"] | None = None,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n 3 H W"]:
        """Images in [-1, 1] at the decoder's size.  Guided away from the branch without embedding and
        caption.  `x_T`: the noise to begin with, as from `models.manipulation.invert`; drawn if not given."""
        _check_finite("image_embedding", image_embedding)
        noise = SampleNoise(seed, len(image_embedding), first=first_index, stream=DECODER_STREAM)
        size = self.decoder.config.image_size
        drawn = noise.draw((3, size, size), device=image_embedding.device, dtype=image_embedding.dtype)
        denoise = self.guided_decoder(image_embedding, text_tokens, text_mask, settings.guidance, text_pooled)
        return sample(
            settings,
            self.decoder_diffusion,
            denoise,
            drawn if x_T is None else x_T,
            noise=noise,
            clip_x0=True,
            callback=_named(progress, "decoder"),
        ).clamp(-1, 1)

    def guided_decoder(
        self,
        image_embedding: Float[Tensor, "n d"],
        text_tokens: Int[Tensor, "n L"] | Float[Tensor, "n L c"],
        text_mask: Bool[Tensor, "n L"],
        guidance: float,
        text_pooled: Float[Tensor, "n p"] | None = None,
    ) -> Guided:
        """The decoder with its conditions bound, as samplers take it."""
        everything = torch.ones(len(image_embedding), dtype=torch.bool, device=image_embedding.device)
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
        *,
        seed: int,
        settings: StageSampling,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n 3 H W"]:
        """Images in [-1, 1] at `low_res`'s size times the scale of upsampler `stage`, which need not be
        square."""
        _check_finite("low_res", low_res)
        upsampler = self.upsamplers[stage]
        assert isinstance(upsampler, Upsampler)
        scale = self.config.upsamplers[stage].scale
        shape = (3, low_res.shape[2] * scale, low_res.shape[3] * scale)
        noise = SampleNoise(seed, len(low_res), first=first_index, stream=UPSAMPLER_STREAM + stage)
        return sample(
            settings,
            self.upsampler_diffusions[stage],
            partial(upsampler.denoise, low_res=low_res),
            noise.draw(shape, device=low_res.device, dtype=low_res.dtype),
            noise=noise,
            clip_x0=True,
            callback=_named(progress, f"upsampler{stage}"),
        ).clamp(-1, 1)


def _named(progress: Progress | None, stage: str) -> Callback | None:
    return None if progress is None else partial(progress, stage)


def _check_finite(name: str, x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        rows = (~torch.isfinite(x)).flatten(1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"UnCLIP: expected finite {name}, got NaN or infinity in rows {rows[:8]}")
