"""What each stage is trained on: from a batch of the stream to one loss per sample.

B batch, L text context, d embedding width.  Whatever is random is drawn from the samples' own generators
(`Draws`), so a loss does not depend on how the global batch was cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from models.config import DiffusionConfig
from models.degradation import blur, bsr, downsample
from models.diffusion.process import Diffusion
from models.inpainting import Known, draw_mask
from models.prior import embedding_scale
from pipelines.train.draws import Draws
from pipelines.train.stream import Batch

Network = Callable[..., Tensor]


class Objective(Protocol):
    """The loss of a stage."""

    def losses(self, network: Network, batch: Batch, draws: Draws) -> Float[Tensor, " B"]:
        """One loss per sample, unweighted, averaged over its elements.  `network` may be an engine's."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorObjective:
    """Mean squared error of the predicted x_0 (2204.06125, section 2.2): the embedding, scaled."""

    diffusion: DiffusionConfig
    embedding_dim: int
    drop_text: float = 0.1
    """Share of samples trained without caption and text embedding, for classifier-free guidance."""

    def losses(self, network: Network, batch: Batch, draws: Draws) -> Float[Tensor, " B"]:
        process, device = _process(self.diffusion), draws.device
        x0 = _to(device, batch.image_embedding) * embedding_scale(self.embedding_dim)
        t = draws.timesteps(process.num_steps)
        noise = draws.normal(tuple(x0.shape[1:]))
        drop = draws.uniform() < self.drop_text
        x_t = process.q_sample(x0, t, noise)
        output = network(
            x_t,
            t,
            _to(device, batch.tokens),
            _to(device, batch.mask),
            _to(device, batch.text_embedding),
            drop,
        )
        return process.training_losses(output.float(), x0, x_t, t, noise)


@dataclass(frozen=True, kw_only=True, slots=True)
class ARPriorObjective:
    """Cross entropy of the image embedding's tokens, nats per token (section 2.2)."""

    drop_text: float = 0.1
    """As of `PriorObjective`; the dot product goes with the text."""

    def losses(self, network: Network, batch: Batch, draws: Draws) -> Float[Tensor, " B"]:
        device = draws.device
        nats = network(
            _to(device, batch.image_embedding),
            _to(device, batch.tokens),
            _to(device, batch.mask),
            _to(device, batch.text_embedding),
            draws.uniform() < self.drop_text,
        )
        return nats.float().mean(dim=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderObjective:
    """The hybrid loss with learned variance; embedding and caption dropped independently (section 2.1)."""

    diffusion: DiffusionConfig
    image: bool = True
    """Whether the network sees the image embedding; GLIDE's does not."""
    drop_image: float = 0.1
    drop_text: float = 0.5
    inpainting: bool = False
    """Show the network what `draw_mask` leaves of each picture; the loss is the whole picture's."""

    def losses(self, network: Network, batch: Batch, draws: Draws) -> Float[Tensor, " B"]:
        process, device = _process(self.diffusion), draws.device
        x0 = _pixels(batch, device)
        t = draws.timesteps(process.num_steps)
        noise = draws.normal(tuple(x0.shape[1:]))
        drop_image, drop_text = draws.uniform() < self.drop_image, draws.uniform() < self.drop_text
        x_t = process.q_sample(x0, t, noise)
        output = network(
            x_t,
            t,
            _to(device, batch.image_embedding) if self.image else None,
            _to(device, batch.tokens),
            _to(device, batch.mask),
            drop_image,
            drop_text,
            **_known(self.inpainting, x0, draws),
        )
        return process.training_losses(output.float(), x0, x_t, t, noise)


@dataclass(frozen=True, kw_only=True, slots=True)
class UpsamplerObjective:
    """The diffusion loss on crops, given their degraded low resolution version (section 2.1)."""

    diffusion: DiffusionConfig
    scale: int
    degradation: Literal["none", "blur", "bsr"] = "blur"
    noise_conditioning: bool = False
    """Noise the low resolution version to a level drawn from [0, 1), which the network is told."""
    text: bool = False
    """Whether the network reads the caption; GLIDE's and Imagen's do."""
    drop_text: float = 0.1
    inpainting: bool = False
    """As the decoder's: the low resolution picture is whole, of the high one only a part is shown."""

    def losses(self, network: Network, batch: Batch, draws: Draws) -> Float[Tensor, " B"]:
        process, device = _process(self.diffusion), draws.device
        x0 = _pixels(batch, device)
        low_res = self.low_resolution(x0, draws)
        t = draws.timesteps(process.num_steps)
        noise = draws.normal(tuple(x0.shape[1:]))
        x_t = process.q_sample(x0, t, noise)
        level: Tensor | None = None
        text: tuple[Tensor, ...] = ()
        if self.noise_conditioning:
            level = draws.uniform()
            low_res = process.noise_to_level(low_res, level, draws.normal(tuple(low_res.shape[1:])))
        if self.text:
            drop = draws.uniform() < self.drop_text
            text = (_to(device, batch.tokens), _to(device, batch.mask), drop)
        output = network(x_t, t, low_res, level, *text, **_known(self.inpainting, x0, draws))
        return process.training_losses(output.float(), x0, x_t, t, noise)

    def low_resolution(self, x0: Float[Tensor, "B 3 H W"], draws: Draws) -> Float[Tensor, "B 3 h w"]:
        """The corrupted input: Gaussian blur for the first upsampler, BSR for the second (Table 3)."""
        if self.degradation == "bsr":
            one_by_one = zip(x0.split(1), draws.generators, strict=True)
            return torch.cat([bsr(image, self.scale, generator) for image, generator in one_by_one])
        small = downsample(x0, (x0.shape[2] // self.scale, x0.shape[3] // self.scale))
        return blur(small) if self.degradation == "blur" else small


StageObjective = PriorObjective | ARPriorObjective | DecoderObjective | UpsamplerObjective


@lru_cache(maxsize=8)
def _process(config: DiffusionConfig) -> Diffusion:
    return config.build()


def _known(inpainting: bool, x0: Tensor, draws: Draws) -> dict[str, Tensor]:
    """The known channels of training pictures; nothing for a network that takes none."""
    if not inpainting:
        return {}
    masks = [draw_mask((x0.shape[2], x0.shape[3]), generator) for generator in draws.generators]
    return {"known": Known(pixels_m11=x0, mask=torch.stack(masks).to(draws.device)).channels()}


def _pixels(batch: Batch, device: torch.device) -> Float[Tensor, "B 3 H W"]:
    if batch.image_u8 is None:
        raise ValueError("this objective is trained on images, but the stream was opened without a view")
    return _to(device, batch.image_u8).float() / 127.5 - 1


def _to(device: torch.device, array: Any) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)
