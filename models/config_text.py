"""Configurations of the parts that bring text into a U-Net."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from models.config_base import Config, check_divides, check_positive

if TYPE_CHECKING:
    # Modules, not names: the forward references below are absolute, which the run-time shape checks resolve.
    import models.text_features
    import models.text_transformer


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextTransformerConfig(Config):
    """GLIDE's text encoder (2112.10741, section 3.1)."""

    vocab_size: int
    context: int
    width: int
    layers: int
    heads: int

    def __post_init__(self) -> None:
        check_positive(self, "vocab_size", "context", "width", "layers", "heads")
        check_divides(self, "width", self.width, "heads", self.heads)

    def build(self) -> "models.text_transformer.TextTransformer":
        from models.text_transformer import TextTransformer

        return TextTransformer(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TextFeaturesConfig(Config):
    """Text as an outer, frozen encoder has read it, made ready for a U-Net (Imagen, 2205.11487, section
    2.1)."""

    features_dim: int
    """Width of the encoder's features, one a position."""
    context: int
    width: int
    """Of the sequence the attention blocks see."""
    time_width: int
    """Of the U-Net's timestep embedding."""
    pooled_dim: int | None = None
    """Width of the encoder's vector for the whole text; None: the mean of the features stands for it."""
    null: Literal["learned", "given"] = "learned"
    """What stands for a dropped text: learned features, or features given once by `TextFeatures.set_null`,
    such as the encoding of the empty prompt (Karlo)."""

    def __post_init__(self) -> None:
        check_positive(self, "features_dim", "context", "width", "time_width")
        if self.pooled_dim is not None:
            check_positive(self, "pooled_dim")

    def build(self) -> "models.text_features.TextFeatures":
        from models.text_features import TextFeatures

        return TextFeatures(self)
