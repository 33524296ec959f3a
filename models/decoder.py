"""unCLIP decoder (2204.06125, section 2.1): image embedding and caption to a small image."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.config import DecoderConfig
from models.inpainting import append_known
from models.text_transformer import TextTransformer
from models.unet import UNet


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditioning:
    """What the U-Net sees of the conditions; computed once for a whole sampling chain."""

    time_shift: Float[Tensor, "B E"]
    context: Float[Tensor, "B width L"]

    def as_kwargs(self) -> dict[str, Tensor]:
        return {"time_shift": self.time_shift, "context": self.context}


@final
class Decoder(nn.Module):
    """GLIDE's text-conditional U-Net that also sees the image embedding, twice: added to the timestep
    embedding, and as extra context tokens after the text.

    The image embedding comes at unit norm and is brought to unit variance (times sqrt(d)) before its
    projections: not in the paper, which says nothing of the scale; it changes the initialisation and the
    learning rate of two linear layers, and can be folded into imported weights.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width, embedding = config.text_width, 4 * config.model_channels
        self.unet = UNet(config.unet)
        self.text = TextTransformer(config.text)
        self.text_to_time = nn.Linear(width, embedding)
        self.image_to_time = nn.Linear(config.embedding_dim, embedding)
        self.image_to_context = nn.Linear(config.embedding_dim, width * config.image_tokens)
        self.null_image = nn.Parameter(torch.zeros(1, config.embedding_dim))

    def forward(
        self,
        x_t: Float[Tensor, "B 3 H W"],
        t: Int[Tensor, " B"],
        image_embedding: Float[Tensor, "B d"],
        text_tokens: Int[Tensor, "B L"],
        text_mask: Bool[Tensor, "B L"],
        drop_image: Bool[Tensor, " B"] | None = None,
        drop_text: Bool[Tensor, " B"] | None = None,
        known: Float[Tensor, "B 4 H W"] | None = None,
    ) -> Float[Tensor, "B 6 H W"]:
        """Raw output: three channels of mean, three of variance.

        Where `drop_image` is True the embedding is replaced by a learned null, where `drop_text` is True the
        caption by the empty one.  `known` as in `denoise`.
        """
        conditioning = self.condition(image_embedding, text_tokens, text_mask, drop_image, drop_text)
        return self.denoise(x_t, t, **conditioning.as_kwargs(), known=known)

    def condition(
        self,
        image_embedding: Float[Tensor, "B d"],
        text_tokens: Int[Tensor, "B L"],
        text_mask: Bool[Tensor, "B L"],
        drop_image: Bool[Tensor, " B"] | None = None,
        drop_text: Bool[Tensor, " B"] | None = None,
    ) -> Conditioning:
        """Encode the conditions.  They do not change along a chain: a sampler calls this once, not at every
        step."""
        d = self.config.embedding_dim
        if image_embedding.shape[1] != d:
            raise ValueError(
                f"Decoder: expected image embeddings of width {d}, got {image_embedding.shape[1]}"
            )
        image = image_embedding * math.sqrt(d)
        if drop_image is not None:
            image = torch.where(drop_image[:, None], self.null_image, image)
        if drop_text is not None:
            text_mask = text_mask & ~drop_text[:, None]
        text = self.text(text_tokens, text_mask)
        image_tokens = self.image_to_context(image).reshape(len(image), self.config.image_tokens, -1)
        return Conditioning(
            time_shift=self.text_to_time(text[:, -1]) + self.image_to_time(image),
            context=torch.cat([text, image_tokens], dim=1).transpose(1, 2).contiguous(),
        )

    def denoise(
        self,
        x_t: Float[Tensor, "B 3 H W"],
        t: Int[Tensor, " B"],
        *,
        time_shift: Float[Tensor, "B E"],
        context: Float[Tensor, "B width L"],
        known: Float[Tensor, "B 4 H W"] | None = None,
    ) -> Float[Tensor, "B 6 H W"]:
        """The U-Net with conditions already encoded by `condition`.  `known`: `Known.channels()`, for a
        network with `config.inpainting`; without it nothing is known."""
        x = append_known(x_t, known, self.config.inpainting)
        return self.unet(x, t, time_shift=time_shift, context=context)


def draw_drops(
    batch: int, generator: torch.Generator, p_image: float = 0.1, p_text: float = 0.5
) -> tuple[Bool[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Which samples of a training batch lose the image embedding and which the caption, independently.

    unCLIP drops them 10 % and 50 % of the time (section 2.1), hence both present 45 %, text only 5 % (as its
    section 5.1 says), image only 45 %, neither 5 %.  On the generator's device.
    """
    draws = torch.rand(2, batch, generator=generator, device=generator.device)
    return draws[0] < p_image, draws[1] < p_text
