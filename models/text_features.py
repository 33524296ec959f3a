"""Text of an outer, frozen encoder, made ready for a U-Net: decoders and upsamplers share it."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.config import TextFeaturesConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditioning:
    """What `UNet.forward` sees of the conditions; computed once for a whole sampling chain."""

    time_shift: Float[Tensor, "B E"]
    context: Float[Tensor, "B width L"]
    context_mask: Bool[Tensor, "B L"] | None = None
    """False where the context is padding; None: all of it is attended to."""

    def as_kwargs(self) -> dict[str, Tensor]:
        conditions = {"time_shift": self.time_shift, "context": self.context}
        return conditions if self.context_mask is None else {**conditions, "context_mask": self.context_mask}


@final
class TextFeatures(nn.Module):
    """Features to a normalised context sequence, their pooled vector to a shift of the timestep embedding.

    Padding is masked, not learned as in GLIDE: what the outer encoder leaves there means nothing.  A dropped
    text is replaced before the projections, by null features of the full context that are learned (Imagen
    trains with 10 % dropped) or given by `set_null` (Karlo: its encoder's output for the empty prompt).
    """

    null_features: Tensor
    null_mask: Tensor
    null_pooled: Tensor

    def __init__(self, config: TextFeaturesConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.proj = nn.Linear(c.features_dim, c.width)
        self.norm = nn.LayerNorm(c.width)
        self.pooled_to_time = nn.Linear(c.pooled_dim or c.features_dim, c.time_width)
        self.register_buffer("null_mask", torch.ones(1, c.context, dtype=torch.bool))
        self._add_null("null_features", c.context, c.features_dim)
        if c.pooled_dim is not None:
            self._add_null("null_pooled", c.pooled_dim)

    def forward(
        self,
        features: Float[Tensor, "B L c"],
        mask: Bool[Tensor, "B L"],
        pooled: Float[Tensor, "B p"] | None = None,
        drop: Bool[Tensor, " B"] | None = None,
    ) -> Conditioning:
        """`mask` is True on the text; where `drop` is True the text is replaced by the null.

        Raises `ValueError` on widths other than the configuration's, a text past the context, and a null
        that was never given.
        """
        self._check(features, pooled)
        missing = self.config.context - features.shape[1]
        features, mask = F.pad(features, (0, 0, 0, missing)), F.pad(mask, (0, missing), value=False)
        if drop is not None:
            self._check_null()
            features = torch.where(drop[:, None, None], self.null_features, features)
            mask = torch.where(drop[:, None], self.null_mask, mask)
            if pooled is not None:
                pooled = torch.where(drop[:, None], self.null_pooled, pooled)
        return Conditioning(
            context=self.norm(self.proj(features)).transpose(1, 2).contiguous(),
            context_mask=mask,
            time_shift=self.pooled_to_time(_masked_mean(features, mask) if pooled is None else pooled),
        )

    @torch.no_grad()
    def set_null(
        self,
        features: Float[Tensor, "1 L c"],
        mask: Bool[Tensor, "1 L"],
        pooled: Float[Tensor, "1 p"] | None = None,
    ) -> None:
        """What stands for a dropped text from now on, and in the weights when they are saved."""
        if self.config.null != "given":
            raise ValueError("TextFeatures.set_null: this network learned its null; configure null='given'")
        self._check(features, pooled)
        missing = self.config.context - features.shape[1]
        self.null_features.copy_(F.pad(features, (0, 0, 0, missing)))
        self.null_mask.copy_(F.pad(mask, (0, missing), value=False))
        if pooled is not None:
            self.null_pooled.copy_(pooled)

    def _add_null(self, name: str, *shape: int) -> None:
        if self.config.null == "learned":
            self.register_parameter(name, nn.Parameter(torch.randn(1, *shape) * 0.02))
        else:
            # NaN until given: zeros would pass for an encoding.
            self.register_buffer(name, torch.full((1, *shape), torch.nan))

    def _check_null(self) -> None:
        if self.config.null == "given" and bool(self.null_features.isnan().any()):
            raise ValueError(
                "TextFeatures: a text is dropped, but what stands for it was never given; call set_null with "
                "the encoder's output for the empty prompt"
            )

    def _check(self, features: Tensor, pooled: Tensor | None) -> None:
        c = self.config
        if features.shape[1] > c.context or features.shape[2] != c.features_dim:
            raise ValueError(
                f"TextFeatures: expected features [batch, at most {c.context}, {c.features_dim}], got "
                f"{tuple(features.shape)}"
            )
        got = None if pooled is None else pooled.shape[-1]
        if got != c.pooled_dim:
            raise ValueError(f"TextFeatures: expected a pooled vector of width {c.pooled_dim}, got {got}")


def _masked_mean(x: Float[Tensor, "B L c"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B c"]:
    """Mean over the positions of the mask; zeros where there are none."""
    weight = mask[..., None].to(x.dtype)
    # Not x * weight: padding may hold infinities.
    return torch.where(mask[..., None], x, 0).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
