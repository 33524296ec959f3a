"""Pictures made of pictures (2204.06125, section 3): taken apart into (z, x_T), moved there, drawn again.

n samples, d embedding width, S the decoder's side.  The caption is left empty: z says what a picture shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.cascade import DECODER_STREAM, UnCLIP
from models.diffusion.noise import SampleNoise
from models.manipulation import arithmetic_path, interpolation_path, invert, reconstruct, text_diff_path
from models.pca import Pca
from models.sampling import CascadeSampling, StageSampling, check_upsamplers

Stages = tuple[Float[Tensor, "n 3 _h _w"], ...]
"""Pictures in [-1, 1] of the decoder and of each upsampler."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Latents:
    """What describes pictures almost completely."""

    z: Float[Tensor, "n d"]
    """CLIP embeddings, of unit norm."""
    x_T: Float[Tensor, "n 3 S S"]
    """The noise from which DDIM comes back to them."""

    def repeat(self, count: int) -> "Latents":
        """Each of them `count` times."""
        return Latents(z=self.z.repeat_interleave(count, 0), x_T=self.x_T.repeat_interleave(count, 0))


@final
class Manipulator:
    """The manipulations of a model, with settings they share.

    DDIM without guidance throughout: what `latents` follows back is the plain decoder.

        >>> from models.tiny import QUICK, tiny_embeddings, tiny_images, tiny_model
        >>> draw = Manipulator(tiny_model(), steps=4, upsamplers=QUICK.upsamplers)
        >>> pictures = draw.latents(tiny_images(2), tiny_embeddings(2))
        >>> [tuple(stage.shape) for stage in draw.reconstruct(pictures)]
        [(2, 3, 16, 16), (2, 3, 32, 32)]
    """

    def __init__(
        self,
        model: UnCLIP,
        *,
        steps: int | str = 50,
        seed: int = 0,
        upsamplers: Sequence[StageSampling] = CascadeSampling().upsamplers,
    ) -> None:
        """Raises `ValueError` where `upsamplers` do not fit the model's."""
        self.model, self.steps, self.seed, self.upsamplers = model, steps, seed, tuple(upsamplers)
        check_upsamplers(self.upsamplers, model.config.upsamplers)

    def latents(self, images_m11: Float[Tensor, "n 3 S S"], z: Float[Tensor, "n d"]) -> Latents:
        """Of pictures at the decoder's size and their embeddings, by DDIM inversion."""
        return Latents(z=z, x_T=invert(self.model, images_m11, z, *_no_caption(z), steps=self.steps))

    def fixed_noise(self, z: Float[Tensor, "n d"]) -> Latents:
        """The embeddings over one and the same noise, the seed's."""
        size = self.model.config.decoder.image_size
        noise = SampleNoise(self.seed, 1, stream=DECODER_STREAM).draw((3, size, size), device=z.device)
        return Latents(z=z, x_T=noise.to(z.dtype).expand(len(z), -1, -1, -1))

    def reconstruct(self, latents: Latents) -> Stages:
        """The pictures that `latents` were taken of, nearly: on the way back nothing is clipped, because
        nothing was on the way there."""
        conditions = (latents.z, *_no_caption(latents.z))
        return self._upsampled(reconstruct(self.model, latents.x_T, *conditions, steps=self.steps))

    def _draw(self, latents: Latents, eta: float) -> Stages:
        settings = StageSampling(sampler="ddim", steps=self.steps, eta=eta)
        conditions = (latents.z, *_no_caption(latents.z))
        return self._upsampled(
            self.model.decode(*conditions, seed=self.seed, settings=settings, x_T=latents.x_T)
        )

    def _upsampled(self, images: Tensor) -> Stages:
        stages = [images]
        for stage in range(len(self.model.upsamplers)):
            settings = self.upsamplers[stage]
            text = _no_caption(images)
            stages.append(self.model.upsample(stages[-1], stage, *text, seed=self.seed, settings=settings))
        return tuple(stages)

    def vary(self, latents: Latents, count: int, *, eta: float = 0.7) -> Stages:
        """`count` pictures of each: DDIM with `eta` > 0 changes details, 0 nothing (section 3.1).

        >>> from models.tiny import QUICK, tiny_embeddings, tiny_images, tiny_model
        >>> draw = Manipulator(tiny_model(), steps=4, upsamplers=QUICK.upsamplers)
        >>> one = draw.latents(tiny_images(1), tiny_embeddings(1))
        >>> images = draw.vary(one, 3, eta=1.0)[0]
        >>> tuple(images.shape), bool((images[0] == images[1]).all())
        ((3, 3, 16, 16), False)
        """
        repeated = latents.repeat(count)
        return self._draw(repeated, eta) if eta > 0 else self.reconstruct(repeated)

    def interpolate(
        self, first: Latents, last: Latents, count: int, *, noise: Literal["slerp", "fixed"] = "slerp"
    ) -> Stages:
        """`count` pictures on the way from one to another (section 3.2).

        `noise` "slerp" turns x_T as it turns z, and the ends are the pictures themselves; "fixed" takes the
        seed's for all, one of infinitely many ways, whose ends are only like them.

            >>> from models.tiny import QUICK, tiny_embeddings, tiny_images, tiny_model
            >>> draw = Manipulator(tiny_model(), steps=4, upsamplers=QUICK.upsamplers)
            >>> a, b = (draw.latents(tiny_images(1, seed=s), tiny_embeddings(1, seed=s)) for s in (0, 1))
            >>> way = draw.interpolate(a, b, 3)[0]
            >>> bool(torch.allclose(way[2:], draw.reconstruct(b)[0], atol=1e-2))
            True
        """
        fractions = np.linspace(0, 1, count).tolist()
        z = interpolation_path(first.z, last.z, fractions)
        if noise == "fixed":
            return self._draw(self.fixed_noise(z), 0.0)
        return self.reconstruct(Latents(z=z, x_T=interpolation_path(first.x_T, last.x_T, fractions)))

    def text_diff(
        self,
        latents: Latents,
        text: Float[Tensor, "1 d"],
        baseline: Float[Tensor, "1 d"],
        count: int,
        *,
        most: float = 0.35,
        arithmetic: bool = False,
    ) -> Stages:
        """`count` pictures from one towards what tells `text` from `baseline` (section 3.3).

        `most` is the last point of the way: a fraction of the angle, of which the paper takes 0.25 to 0.5, or
        with `arithmetic` an amount of the difference itself.  x_T stays, so that the rest of the picture
        does.

            >>> from models.tiny import QUICK, tiny_embeddings, tiny_images, tiny_model
            >>> draw = Manipulator(tiny_model(), steps=4, upsamplers=QUICK.upsamplers)
            >>> one = draw.latents(tiny_images(1), tiny_embeddings(1))
            >>> texts = tiny_embeddings(2, seed=3)
            >>> tuple(draw.text_diff(one, texts[:1], texts[1:], 4)[1].shape)
            (4, 3, 32, 32)
            >>> tuple(draw.text_diff(one, texts[:1], texts[1:], 2, most=1.0, arithmetic=True)[0].shape)
            (2, 3, 16, 16)
        """
        path = arithmetic_path if arithmetic else text_diff_path
        z = path(latents.z, text, baseline, np.linspace(0, most, count).tolist())
        return self.reconstruct(Latents(z=z, x_T=latents.repeat(count).x_T))

    def principal(self, z: Float[Tensor, "1 d"], pca: Pca, kept: Sequence[int]) -> Stages:
        """One picture a number of principal components that z keeps, over the seed's noise (Fig. 7).

        What is kept is brought back to unit norm, the only one the decoder has seen.

            >>> from models.tiny import QUICK, tiny_embeddings, tiny_model
            >>> draw = Manipulator(tiny_model(), steps=4, upsamplers=QUICK.upsamplers)
            >>> pca = Pca.fit([tiny_embeddings(40, seed=1)])
            >>> tuple(draw.principal(tiny_embeddings(1), pca, (2, 8, 16))[0].shape)
            (3, 3, 16, 16)
        """
        truncated = torch.cat([pca.truncate(z, count) for count in kept])
        return self._draw(self.fixed_noise(F.normalize(truncated, dim=-1)), 0.0)


def _no_caption(z: Tensor) -> tuple[Int[Tensor, "n 1"], Bool[Tensor, "n 1"]]:
    shape = (len(z), 1)
    return torch.zeros(shape, dtype=torch.long, device=z.device), torch.zeros(
        shape, dtype=torch.bool, device=z.device
    )
