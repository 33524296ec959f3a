"""Text of an outer, frozen encoder, made ready for a U-Net: decoders and upsamplers share it."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.config_text import TextFeaturesConfig


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
class NullText(nn.Module):
    """What stands for a dropped text: features of the full context, a mask, and a pooled vector if any."""

    features: Tensor
    mask: Tensor
    pooled: Tensor

    def __init__(self, context: int, features_dim: int, pooled_dim: int | None, *, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        self.register_buffer("mask", torch.ones(1, context, dtype=torch.bool))
        for name, shape in (("features", (context, features_dim)), ("pooled", (pooled_dim,))):
            if shape[0] is None:
                continue
            if learned:
                self.register_parameter(name, nn.Parameter(torch.randn(1, *shape) * 0.02))
            else:
                # NaN until given: zeros would pass for an encoding.
                self.register_buffer(name, torch.full((1, *shape), torch.nan))

    def replace(
        self,
        features: Float[Tensor, "B L c"],
        mask: Bool[Tensor, "B L"],
        pooled: Float[Tensor, "B p"] | None,
        drop: Bool[Tensor, " B"],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same with the null where `drop` is True.  Raises `ValueError` where none was given."""
        if not self.learned and bool(drop.any() & self.features.isnan().any()):
            raise ValueError(
                "a text is dropped, but what stands for it was never given; call set_null with the encoder's "
                "output for the empty prompt"
            )
        if pooled is not None:
            pooled = torch.where(drop[:, None], self.pooled, pooled)
        features = torch.where(drop[:, None, None], self.features, features)
        return features, torch.where(drop[:, None], self.mask, mask), pooled

    @torch.no_grad()
    def set(
        self,
        features: Float[Tensor, "1 L c"],
        mask: Bool[Tensor, "1 L"],
        pooled: Float[Tensor, "1 p"] | None,
    ) -> None:
        """Give the null.  Raises `ValueError` where it is learned."""
        if self.learned:
            raise ValueError("set_null: this network learned its null; configure null_text='given'")
        features, mask = pad_to_context(features, mask, self.mask.shape[1])
        self.features.copy_(features)
        self.mask.copy_(mask)
        if pooled is not None:
            self.pooled.copy_(pooled)


@final
class TextFeatures(nn.Module):
    """Features to a normalised context sequence, their pooled vector to a shift of the timestep embedding.

    Padding is masked, not learned as in GLIDE: what the outer encoder leaves there means nothing.  A dropped
    text is replaced before the projections, by null features of the full context that are learned (Imagen
    trains with 10 % dropped) or given by `set_null` (Karlo: its encoder's output for the empty prompt).
    """

    def __init__(self, config: TextFeaturesConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.proj = nn.Linear(c.features_dim, c.width)
        self.norm = nn.LayerNorm(c.width)
        self.pooled_to_time = nn.Linear(c.pooled_dim or c.features_dim, c.time_width)
        self.null = NullText(c.context, c.features_dim, c.pooled_dim, learned=c.null == "learned")

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
        features, mask = pad_to_context(features, mask, self.config.context)
        if drop is not None:
            features, mask, pooled = self.null.replace(features, mask, pooled, drop)
        return Conditioning(
            context=self.norm(self.proj(features)).transpose(1, 2).contiguous(),
            context_mask=mask,
            time_shift=self.pooled_to_time(_masked_mean(features, mask) if pooled is None else pooled),
        )

    def set_null(
        self,
        features: Float[Tensor, "1 L c"],
        mask: Bool[Tensor, "1 L"],
        pooled: Float[Tensor, "1 p"] | None = None,
    ) -> None:
        """What stands for a dropped text from now on, and in the weights when they are saved."""
        self._check(features, pooled)
        self.null.set(features, mask, pooled)

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


def pad_to_context(
    features: Float[Tensor, "B L c"], mask: Bool[Tensor, "B L"], context: int
) -> tuple[Float[Tensor, "B context c"], Bool[Tensor, "B context"]]:
    missing = context - features.shape[1]
    return F.pad(features, (0, 0, 0, missing)), F.pad(mask, (0, missing), value=False)


def _masked_mean(x: Float[Tensor, "B L c"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B c"]:
    """Mean over the positions of the mask; zeros where there are none."""
    weight = mask[..., None].to(x.dtype)
    # Not x * weight: padding may hold infinities.
    return torch.where(mask[..., None], x, 0).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
