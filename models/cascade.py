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

from models.config import UnCLIPConfig
from models.diffusion.guidance import Guided
from models.diffusion.noise import SampleNoise
from models.diffusion.process import Diffusion
from models.diffusion.samplers import Callback, Denoiser
from models.inpainting import Known, KnownRegion
from models.sampling import CascadeSampling, StageSampling, sample
from models.tiling import Tiled
from models.upsampler import Upsampler

Progress = Callable[[str, int, int, Tensor], None]
"""Called with (stage, steps done, steps in total, current estimate of x_0); stages: prior, decoder,
upsampler0, ..."""

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
        self.decoder = config.decoder.build()
        self.upsamplers = nn.ModuleList([c.build() for c in config.upsamplers])
        self.prior_diffusion = config.prior_diffusion.build()
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

            >>> from models.tiny import QUICK, tiny_caption, tiny_model
            >>> drawn = tiny_model().generate(*tiny_caption(), seed=0, samples=2, sampling=QUICK)
            >>> [tuple(images.shape) for images in drawn.images_m11]
            [(2, 3, 16, 16), (2, 3, 32, 32)]
        """
        inputs = (x.repeat_interleave(samples, dim=0) for x in (text_tokens, text_mask, text_embedding))
        draw: dict[str, Any] = {"seed": seed, "first_index": first_index, "progress": progress}
        return self._draw(*inputs, sampling=sampling or CascadeSampling(), known=None, **draw)

    @torch.no_grad()
    def inpaint(
        self,
        known: Known,
        text_tokens: Int[Tensor, "n L"] | Float[Tensor, "n L c"],
        text_mask: Bool[Tensor, "n L"],
        text_embedding: Float[Tensor, "n d"],
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
        _check_finite("known pixels", known.channels())
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
        embedding: Tensor,
        *,
        sampling: CascadeSampling,
        known: Known | None,
        **draw: Any,
    ) -> Generated:
        if len(sampling.upsamplers) < len(self.upsamplers):
            raise ValueError(
                f"UnCLIP: {len(self.upsamplers)} upsamplers, settings for {len(sampling.upsamplers)}"
            )
        candidates = sampling.prior_candidates
        z = self.sample_prior(tokens, mask, embedding, settings=sampling.prior, candidates=candidates, **draw)
        pooled = None if self.config.decoder.text_pooled_dim is None else embedding
        size = self.config.decoder.image_size
        at = known and known.at((size, size))
        decoding: dict[str, Any] = {"settings": sampling.decoder, "text_pooled": pooled, "known": at}
        images = [self.decode(z, tokens, mask, **decoding, **draw)]
        for stage, config in enumerate(self.config.upsamplers):
            size *= config.scale
            at, settings = known and known.at((size, size)), sampling.upsamplers[stage]
            images.append(self.upsample(images[-1], stage, settings=settings, known=at, **draw))
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
        """Image embeddings of unit norm: of `candidates` draws the one of the largest dot product with the
        text embedding (section 2.2).

        The paper leaves the norm of a sample as it comes; here it is set to 1, the only one the decoder has
        seen.  A prior of standardised embeddings (Karlo) sets none, and clamps x0 as its process says.
        """
        _check_finite("text_embedding", text_embedding)
        inputs = (text_tokens, text_mask, text_embedding)
        text, mask, embedding = (x.repeat_interleave(candidates, dim=0) for x in inputs)
        conditions = {"text": text, "text_mask": mask, "text_embedding": embedding}
        kept, dropped = (torch.full((len(text),), flag, device=text.device) for flag in (False, True))
        conditional, null = {**conditions, "drop": kept}, {**conditions, "drop": dropped}
        denoise = Guided(self.prior.denoise, conditional, null, settings.guidance)
        noise = SampleNoise(seed, len(text), first=first_index * candidates, stream=PRIOR_STREAM)
        clip = self.config.prior.normalisation == "standardised"
        x_T, callback = noise.like(embedding), _named(progress, "prior")
        scaled = sample(
            settings, self.prior_diffusion, denoise, x_T, noise=noise, clip_x0=clip, callback=callback
        )
        z = self.prior.to_embedding(scaled)
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
        known: Known | None = None,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n 3 H W"]:
        """Images in [-1, 1] at the decoder's size.  Guided away from the branch without embedding and
        caption.  `x_T`: the noise to begin with, as from `models.manipulation.invert`; drawn if not given.
        `known`: what of them stays as it is, at the decoder's size."""
        _check_finite("image_embedding", image_embedding)
        noise = SampleNoise(seed, len(image_embedding), first=first_index, stream=DECODER_STREAM)
        size = self.decoder.config.image_size
        drawn = noise.draw((3, size, size), device=image_embedding.device, dtype=image_embedding.dtype)
        conditions = (image_embedding, text_tokens, text_mask)
        denoise = self.guided_decoder(*conditions, settings.guidance, text_pooled, known)
        return _sample_image(
            settings,
            self.decoder_diffusion,
            denoise,
            drawn if x_T is None else x_T,
            known,
            noise=noise,
            callback=_named(progress, "decoder"),
        )

    def guided_decoder(
        self,
        image_embedding: Float[Tensor, "n d"],
        text_tokens: Int[Tensor, "n L"] | Float[Tensor, "n L c"],
        text_mask: Bool[Tensor, "n L"],
        guidance: float,
        text_pooled: Float[Tensor, "n p"] | None = None,
        known: Known | None = None,
    ) -> Guided:
        """The decoder with its conditions bound, as samplers take it."""
        everything = torch.ones(len(image_embedding), dtype=torch.bool, device=image_embedding.device)
        condition = partial(
            self.decoder.condition, image_embedding, text_tokens, text_mask, text_pooled=text_pooled
        )
        shown = _shown(known, self.config.decoder.inpainting)
        conditional = {**condition().as_kwargs(), **shown}
        null = {**condition(everything, everything).as_kwargs(), **shown}
        return Guided(self.decoder.denoise, conditional, null, guidance)

    @torch.no_grad()
    def upsample(
        self,
        low_res: Float[Tensor, "n 3 h w"],
        stage: int,
        *,
        seed: int,
        settings: StageSampling,
        known: Known | None = None,
        first_index: int = 0,
        progress: Progress | None = None,
    ) -> Float[Tensor, "n 3 H W"]:
        """Images in [-1, 1] at `low_res`'s size times the scale of upsampler `stage`, which need not be
        square.  `known`: what of them stays as it is, at their size."""
        _check_finite("low_res", low_res)
        upsampler = self.upsamplers[stage]
        assert isinstance(upsampler, Upsampler)
        config = upsampler.config
        size = (low_res.shape[2] * config.scale, low_res.shape[3] * config.scale)
        conditions = {"low_res": upsampler.resize(low_res, size), **_shown(known, config.inpainting)}
        denoise: Denoiser = partial(upsampler.denoise, **conditions)
        if settings.tile is not None:
            denoise = Tiled(upsampler.denoise, conditions, tile=settings.tile, stride=config.unet.stride)
        noise = SampleNoise(seed, len(low_res), first=first_index, stream=UPSAMPLER_STREAM + stage)
        return _sample_image(
            settings,
            self.upsampler_diffusions[stage],
            denoise,
            noise.draw((3, *size), device=low_res.device, dtype=low_res.dtype),
            known,
            noise=noise,
            callback=_named(progress, f"upsampler{stage}"),
        )


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


def _shown(known: Known | None, inpainting: bool) -> dict[str, Tensor]:
    """What a network is shown of the known pixels: only one that was trained on them takes any."""
    return {"known": known.channels()} if known is not None and inpainting else {}


def _named(progress: Progress | None, stage: str) -> Callback | None:
    return None if progress is None else partial(progress, stage)


def _check_finite(name: str, x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        rows = (~torch.isfinite(x)).flatten(1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"UnCLIP: expected finite {name}, got NaN or infinity in rows {rows[:8]}")
