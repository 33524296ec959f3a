"""unCLIP composed (2204.06125): caption -> prior -> image embedding -> decoder -> upsamplers -> image.

n samples, d embedding width, L text length, H W sides.  Tokens and text embeddings come from the caller:
which tokenizer and which encoder made them is the business of whoever registered the model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.checks import check_finite, check_rows
from models.config import UnCLIPConfig
from models.diffusion.analytic import NoisePowers
from models.diffusion.guidance import Guided
from models.diffusion.noise import SampleNoise, sampling_dtype
from models.diffusion.process import Diffusion
from models.diffusion.samplers import Callback, Denoiser, Guide
from models.inpainting import Known, KnownRegion
from models.prior import DiffusionPrior
from models.sampling import CascadeSampling, StageSampling, check_upsamplers, sample
from models.tiling import Tiled
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

            >>> from models.tiny import QUICK, tiny_caption, tiny_model
            >>> drawn = tiny_model().generate(*tiny_caption(), seed=0, samples=2, sampling=QUICK)
            >>> [tuple(images.shape) for images in drawn.images_m11]
            [(2, 3, 16, 16), (2, 3, 32, 32)]
        """
        tokens, mask = (x.repeat_interleave(samples, dim=0) for x in (text_tokens, text_mask))
        embedding = None if text_embedding is None else text_embedding.repeat_interleave(samples, dim=0)
        draw: dict[str, Any] = {"seed": seed, "first_index": first_index, "progress": progress}
        sampling = sampling or CascadeSampling()
        return self._draw(tokens, mask, embedding, sampling=sampling, known=None, **draw)

    @torch.no_grad()
    def inpaint(
        self,
        known: Known,
        text_tokens: Int[Tensor, "n L"] | Float[Tensor, "n L c"],
        text_mask: Bool[Tensor, "n L"],
        text_embedding: Float[Tensor, "n d"] | None = None,
        *,
        seed: int,
        sampling: CascadeSampling | None = None,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Generated:
        """Pictures of the captions that keep what is known of `known`, bit for bit at every stage's size.

        `known` comes at the last stage's size.  Networks with `inpainting` see it; others, ordinary ones,
        are only held to it (`models.inpainting.KnownRegion` says how well that goes).  Raises `ValueError`
        as `generate` does, and on another size.

            >>> from models.tiny import QUICK, tiny_caption, tiny_images, tiny_model
            >>> mask = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
            >>> mask[..., :16] = True
            >>> known = Known(pixels_m11=tiny_images(1, side=32), mask=mask)
            >>> image = tiny_model().inpaint(known, *tiny_caption(), seed=0, sampling=QUICK).images_m11[-1]
            >>> bool((image[..., :16] == known.pixels_m11[..., :16]).all())
            True
        """
        size, got = self.image_size, tuple(known.pixels_m11.shape[2:])
        if got != (size, size):
            raise ValueError(f"UnCLIP.inpaint: expected pictures of {size}x{size} px, got {got[0]}x{got[1]}")
        check_finite("known pixels", known.channels())
        draw: dict[str, Any] = {"seed": seed, "first_index": first_index, "progress": progress}
        sampling = sampling or CascadeSampling()
        return self._draw(text_tokens, text_mask, text_embedding, sampling=sampling, known=known, **draw)

    @property
    def image_size(self) -> int:
        """Side of the last stage's pictures, px."""
        return math.prod(c.scale for c in self.config.upsamplers) * self.config.decoder.image_size

    def _draw(
        self,
        tokens: Tensor,
        mask: Tensor,
        embedding: Tensor | None,
        *,
        sampling: CascadeSampling,
        known: Known | None,
        **draw: Any,
    ) -> Generated:
        check_upsamplers(sampling.upsamplers, self.config.upsamplers)
        check_rows(tokens, mask, embedding, known)
        z = None
        if self.prior is not None:
            if embedding is None:
                raise ValueError("UnCLIP: the prior reads a text embedding, got none")
            how: dict[str, Any] = {"settings": sampling.prior, "candidates": sampling.prior_candidates}
            z = self.sample_prior(tokens, mask, embedding, **how, **draw)
        pooled = None if self.config.decoder.text_pooled_dim is None else embedding
        size = self.config.decoder.image_size
        at = known and known.at((size, size))
        decoding: dict[str, Any] = {"settings": sampling.decoder, "text_pooled": pooled, "known": at}
        images = [self.decode(z, tokens, mask, **decoding, **draw)]
        for stage, config in enumerate(self.config.upsamplers):
            size *= config.scale
            at, settings = known and known.at((size, size)), sampling.upsamplers[stage]
            images.append(self.upsample(images[-1], stage, tokens, mask, settings=settings, known=at, **draw))
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
        check_finite("text_embedding", text_embedding)
        check_finite("text", text_tokens)
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
        known: Known | None = None,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n 3 H W"]:
        """Images in [-1, 1] at the decoder's size.  Guided away from the branch without embedding and
        caption.  `x_T`: the noise to begin with, as from `models.manipulation.invert`; drawn if not given.
        `guide`: classifier guidance beside it, such as `models.noised_clip.clip_guide`.  `image_embedding` is
        None for a decoder that reads none.  `known`: what of them stays as it is, at the decoder's size."""
        dtype = torch.get_default_dtype() if image_embedding is None else sampling_dtype(image_embedding)
        if x_T is not None:
            check_finite("x_T", x_T)
        noise = SampleNoise(seed, len(text_mask), first=first_index, stream=DECODER_STREAM)
        size = self.decoder.config.image_size
        drawn = noise.draw((3, size, size), device=text_mask.device, dtype=dtype)
        conditions = (image_embedding, text_tokens, text_mask)
        denoise = self.guided_decoder(*conditions, settings.guidance, text_pooled, known)
        return _sample_image(
            settings,
            self.decoder_diffusion,
            denoise,
            drawn if x_T is None else x_T.to(dtype),
            known,
            noise=noise,
            guide=guide,
            callback=_named(progress, "decoder"),
        )

    def guided_decoder(
        self,
        image_embedding: Float[Tensor, "n d"] | None,
        text_tokens: Int[Tensor, "n L"] | Float[Tensor, "n L c"],
        text_mask: Bool[Tensor, "n L"],
        guidance: float,
        text_pooled: Float[Tensor, "n p"] | None = None,
        known: Known | None = None,
    ) -> Guided:
        """The decoder with its conditions bound, as samplers take it.  Raises `ValueError` on numbers that
        are not finite."""
        given = {"image_embedding": image_embedding, "text": text_tokens, "text_pooled": text_pooled}
        for name, condition in given.items():
            if condition is not None:
                check_finite(name, condition)
        encode = partial(
            self.decoder.condition, image_embedding, text_tokens, text_mask, text_pooled=text_pooled
        )
        encoded = encode().as_kwargs()
        shown = _shown(known, self.config.decoder.inpainting, encoded["context"].dtype)
        null = conditional = {**encoded, **shown}
        if guidance != 1:
            everything = torch.ones(len(text_mask), dtype=torch.bool, device=text_mask.device)
            null = {**encode(everything, everything).as_kwargs(), **shown}
        return Guided(self.decoder.denoise, conditional, null, guidance)

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
        known: Known | None = None,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n 3 H W"]:
        """Images in [-1, 1] at `low_res`'s size times the scale of upsampler `stage`, which need not be
        square.  An upsampler that reads no text ignores it.  `known`: what of them stays as it is, at their
        size.

        With noise conditioning `low_res` is noised to `settings.noise_level` first, by the stage's process.
        """
        check_finite("low_res", low_res)
        config, process = self.config.upsamplers[stage], self.upsampler_diffusions[stage]
        check_upsamplers((settings,), (config,))
        shape = (3, low_res.shape[2] * config.scale, low_res.shape[3] * config.scale)
        noise = SampleNoise(seed, len(low_res), first=first_index, stream=UPSAMPLER_STREAM + stage)
        low_res = low_res.to(sampling_dtype(low_res))
        x_T = noise.draw(shape, device=low_res.device, dtype=low_res.dtype)
        level = None
        if config.noise_conditioning:
            level = low_res.new_full((len(low_res),), settings.noise_level)
            low_res = process.noise_to_level(low_res, level, noise.like(low_res))
        return _sample_image(
            settings,
            process,
            self._guided_upsampler(stage, low_res, level, text_tokens, text_mask, settings, known),
            x_T,
            known,
            noise=noise,
            callback=_named(progress, f"upsampler{stage}"),
        )

    def _guided_upsampler(
        self,
        stage: int,
        low_res: Tensor,
        level: Tensor | None,
        text: Tensor | None,
        mask: Tensor | None,
        settings: StageSampling,
        known: Known | None,
    ) -> Guided:
        upsampler = self.upsamplers[stage]
        assert isinstance(upsampler, Upsampler)
        config = upsampler.config
        if config.text is None:
            text = mask = None
        if text is not None:
            check_finite("text", text)
        # Resized once, and before it is cut into tiles.
        size = (low_res.shape[2] * config.scale, low_res.shape[3] * config.scale)
        dtype = next(upsampler.parameters()).dtype
        shown = {"low_res": upsampler.resize(low_res, size).to(dtype)}
        shown |= _shown(known, config.inpainting, dtype)
        conditional = {**shown, **upsampler.condition(level, text, mask)}
        null = conditional
        if settings.guidance != 1:
            everything = torch.ones(len(low_res), dtype=torch.bool, device=low_res.device)
            null = {**shown, **upsampler.condition(level, text, mask, everything)}
        network: Callable[..., Tensor] = upsampler.denoise
        if settings.tile is not None:
            network = Tiled(upsampler.denoise, tile=settings.tile, stride=config.unet.stride)
        return Guided(network, conditional, null, settings.guidance)


def _sample_image(
    settings: StageSampling,
    diffusion: Diffusion,
    denoise: Denoiser,
    x_T: Tensor,
    known: Known | None,
    **how: Any,
) -> Tensor:
    if known is None:
        return sample(settings, diffusion, denoise, x_T, clip_x0=True, **how).clamp(-1, 1)
    held = KnownRegion(denoise, diffusion, known)
    return known.paste(sample(settings, diffusion, held, x_T, clip_x0=True, **how).clamp(-1, 1))


def _shown(known: Known | None, inpainting: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """What a network is shown of the known pixels: only one that was trained on them takes any."""
    return {"known": known.channels().to(dtype)} if known is not None and inpainting else {}


def _named(progress: Progress | None, stage: str) -> Callback | None:
    return None if progress is None else partial(progress, stage)
