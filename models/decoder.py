"""unCLIP decoder (2204.06125, section 2.1): image embedding and caption to a small image."""

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.config import DecoderConfig
from models.inpainting import append_known
from models.text_conditioned import TextConditioned
from models.text_features import Conditioning
from models.unet import UNet


@final
class Decoder(TextConditioned):
    """GLIDE's text-conditional U-Net that also sees the image embedding, twice: added to the timestep
    embedding, and as extra context tokens after the text.

    The image embedding comes at unit norm and is brought to unit variance (times sqrt(d)) before its
    projections: not in the paper, which says nothing of the scale; it changes the initialisation and the
    learning rate of two linear layers, and `embedding_scale` turns it off for imported weights.

    The text comes as token ids, or as the features of an outer encoder (`text_features_dim`; Karlo, Imagen).
    Without `embedding_dim` there is no image embedding: GLIDE, and the base of Imagen.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width, embedding = config.text_width, 4 * config.model_channels
        self.unet = UNet(config.unet)
        self.add_text(config.text, embedding)
        if config.embedding_dim is not None:
            self.image_to_time = nn.Linear(config.embedding_dim, embedding)
            self.image_to_context = nn.Linear(config.embedding_dim, width * config.image_tokens)
            self.null_image = nn.Parameter(torch.zeros(1, config.embedding_dim))

    def forward(
        self,
        x_t: Float[Tensor, "B 3 H W"],
        t: Int[Tensor, " B"],
        image_embedding: Float[Tensor, "B d"] | None,
        text: Int[Tensor, "B L"] | Float[Tensor, "B L c"],
        text_mask: Bool[Tensor, "B L"],
        drop_image: Bool[Tensor, " B"] | None = None,
        drop_text: Bool[Tensor, " B"] | None = None,
        text_pooled: Float[Tensor, "B p"] | None = None,
        known: Float[Tensor, "B 4 H W"] | None = None,
    ) -> Float[Tensor, "B 6 H W"]:
        """Raw output: three channels of mean, three of variance.

        Where `drop_image` is True the embedding is replaced by a learned null, where `drop_text` is True the
        caption by the empty one, or features by their null.  `known` as in `denoise`.
        """
        conditioning = self.condition(image_embedding, text, text_mask, drop_image, drop_text, text_pooled)
        return self.denoise(x_t, t, **conditioning.as_kwargs(), known=known)

    def condition(
        self,
        image_embedding: Float[Tensor, "B d"] | None,
        text: Int[Tensor, "B L"] | Float[Tensor, "B L c"],
        text_mask: Bool[Tensor, "B L"],
        drop_image: Bool[Tensor, " B"] | None = None,
        drop_text: Bool[Tensor, " B"] | None = None,
        text_pooled: Float[Tensor, "B p"] | None = None,
    ) -> Conditioning:
        """Encode the conditions.  They do not change along a chain: a sampler calls this once, not at every
        step.

        `image_embedding` and `text_pooled` are None exactly where the configuration has no width for them.
        Raises `ValueError` on a condition that is missing, unexpected or of another width.
        """
        self._check(image_embedding)
        encoded = self.encode_text(text, text_mask, drop_text, text_pooled)
        if image_embedding is None:
            return encoded
        image = image_embedding * self.embedding_scale
        if drop_image is not None:
            image = torch.where(drop_image[:, None], self.null_image, image)
        tokens = self.image_to_context(image).reshape(len(image), self.config.image_tokens, -1)
        mask = encoded.context_mask
        return Conditioning(
            time_shift=encoded.time_shift + self.image_to_time(image),
            context=torch.cat([encoded.context, tokens.transpose(1, 2)], dim=2),
            context_mask=None if mask is None else F.pad(mask, (0, self.config.image_tokens), value=True),
        )

    @property
    def embedding_scale(self) -> float:
        """What image embeddings are multiplied by before their projections."""
        c = self.config
        return math.sqrt(c.embedding_dim or 1) if c.embedding_scale is None else c.embedding_scale

    def denoise(
        self,
        x_t: Float[Tensor, "B 3 H W"],
        t: Int[Tensor, " B"],
        *,
        time_shift: Float[Tensor, "B E"],
        context: Float[Tensor, "B width L"],
        context_mask: Bool[Tensor, "B L"] | None = None,
        known: Float[Tensor, "B 4 H W"] | None = None,
    ) -> Float[Tensor, "B 6 H W"]:
        """The U-Net with conditions already encoded by `condition`.  `known`: `Known.channels()`, for a
        network with `config.inpainting`; without it nothing is known."""
        x = append_known(x_t, known, self.config.inpainting)
        return self.unet(x, t, time_shift=time_shift, context=context, context_mask=context_mask)

    def _check(self, image_embedding: Tensor | None) -> None:
        c = self.config
        width = None if image_embedding is None else image_embedding.shape[1]
        if width != c.embedding_dim:
            wants = (
                "no image embeddings"
                if c.embedding_dim is None
                else f"image embeddings of width {c.embedding_dim}"
            )
            raise ValueError(f"Decoder: expected {wants}, got {'none' if width is None else width}")
