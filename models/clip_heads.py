"""Two heads over frozen image and text towers, trained contrastively (locked-image tuning, 2111.07991)."""

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from models.config import ClipHeadsConfig

MAX_LOGIT_SCALE = 100.0
"""CLIP's clip of the temperature (2103.00020, section 2.5): beyond it training becomes unstable."""


@final
class ClipHeads(nn.Module):
    """Projects the towers' features into one embedding space of unit norm."""

    def __init__(self, config: ClipHeadsConfig) -> None:
        super().__init__()
        self.config = config
        self.image_head = _head(config.image_dim, config)
        self.text_head = _head(config.text_dim, config)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """Inverse temperature; starts at 1 / 0.07 and never exceeds 100."""
        return self.log_scale.exp().clamp(max=MAX_LOGIT_SCALE)

    def encode_image(self, features: Float[Tensor, "B image_dim"]) -> Float[Tensor, "B dim"]:
        """Unit-norm embedding of image features."""
        return self._encode(self.image_head, features, self.config.image_dim, "image")

    def encode_text(self, features: Float[Tensor, "B text_dim"]) -> Float[Tensor, "B dim"]:
        """Unit-norm embedding of text features."""
        return self._encode(self.text_head, features, self.config.text_dim, "text")

    def _encode(self, head: nn.Module, features: Tensor, expected: int, name: str) -> Tensor:
        if features.shape[1] != expected:
            raise ValueError(
                f"ClipHeads: expected {name} features of width {expected}, got {features.shape[1]}"
            )
        return F.normalize(head(features), dim=-1)


def clip_loss(
    image: Float[Tensor, "B dim"],
    text: Float[Tensor, "B dim"],
    logit_scale: Float[Tensor, ""],
    weight: Float[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """CLIP's symmetric cross-entropy over the pairs of a batch (2103.00020, figure 3), in nats; row i matches
    row i.  With `weight` (mean 1 over the data) each pair's loss counts that much."""
    logits = logit_scale * image @ text.T
    labels = torch.arange(len(logits), device=logits.device)
    if weight is not None:
        each = F.cross_entropy(logits, labels, reduction="none")
        each = each + F.cross_entropy(logits.T, labels, reduction="none")
        return (weight * each).mean() / 2
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def _head(features: int, config: ClipHeadsConfig) -> nn.Sequential:
    # The towers' features have scales of their own; the norm makes one learning rate fit both heads.
    layers: list[nn.Module] = [nn.LayerNorm(features), nn.Dropout(config.dropout)]
    if config.hidden is not None:
        layers += [nn.Linear(features, config.hidden), nn.GELU(), nn.Dropout(config.dropout)]
        features = config.hidden
    return nn.Sequential(*layers, nn.Linear(features, config.dim, bias=False))
