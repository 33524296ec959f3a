"""Configurations of the two priors."""

import dataclasses
from typing import TYPE_CHECKING, Literal

from models.config_base import Config, check_divides, check_fraction, check_positive
from models.config_text import TextTransformerConfig

if TYPE_CHECKING:
    # Modules, not names: the forward references below are absolute, which the run-time shape checks resolve.
    import models.ar_prior
    import models.prior


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PriorConfig(Config):
    """Diffusion prior (2204.06125, section 2.2)."""

    embedding_dim: int
    context: int
    width: int
    layers: int
    heads: int
    vocab_size: int | None = None
    """Token ids come in and are embedded here.  Exactly one of this and `text_features_dim` is given."""
    text_features_dim: int | None = None
    """Features of an outer text encoder come in instead, of this width."""
    null_text: Literal["learned", "given"] = "learned"
    """What stands for a dropped text; given: the encoding of the empty prompt (Karlo), for features alone."""
    normalisation: Literal["unit_norm", "standardised"] = "unit_norm"
    """How embeddings are brought to where the diffusion lives.  unit_norm: as in the paper, of norm 1 and
    scaled.  standardised: as the encoder gives them, each dimension by a mean and a deviation that are kept
    with the weights (Karlo)."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "embedding_dim", "context", "width", "layers", "heads")
        check_divides(self, "width", self.width, "heads", self.heads)
        check_divides(self, "width", self.width, "2 (sine and cosine)", 2)
        check_fraction(self, "dropout")
        if (self.vocab_size is None) == (self.text_features_dim is None):
            raise ValueError(
                f"PriorConfig: give exactly one of vocab_size (token ids come in) and text_features_dim "
                f"(features come in), got {self.vocab_size} and {self.text_features_dim}"
            )
        check_positive(self, "vocab_size" if self.text_features_dim is None else "text_features_dim")
        if self.null_text == "given" and self.text_features_dim is None:
            raise ValueError("PriorConfig.null_text: 'given' is for features; with token ids it is learned")

    @property
    def text_context(self) -> int:
        """Tokens a caption may have, by the name that it has in the other networks."""
        return self.context

    def build(self) -> "models.prior.DiffusionPrior":
        from models.prior import DiffusionPrior

        return DiffusionPrior(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ARPriorConfig(Config):
    """Autoregressive prior (2204.06125, section 2.2).  Names as in Table 3, the latent decoder's without a
    prefix."""

    embedding_dim: int
    components: int
    """Principal components of the embedding, one token each; the paper keeps 319 of 1,024."""
    vocab_size: int
    text_context: int
    text_width: int
    text_layers: int
    text_heads: int
    context: int
    """Positions of the latent decoder itself: text embedding, dot product, all tokens but the last."""
    width: int
    layers: int
    heads: int
    buckets: int = 1024
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "embedding_dim", "components", "context", "width", "layers", "heads", "buckets")
        check_divides(self, "width", self.width, "heads", self.heads)
        check_fraction(self, "dropout")
        if self.components > self.embedding_dim:
            raise ValueError(
                f"ARPriorConfig.components: expected at most embedding_dim={self.embedding_dim}, got "
                f"{self.components}"
            )
        if self.context < self.components + 1:
            raise ValueError(
                f"ARPriorConfig.context: {self.components} components need {self.components + 1} positions "
                f"(text embedding, dot product, all tokens but the last), got {self.context}"
            )
        _ = self.text

    @property
    def text_features_dim(self) -> None:
        """It reads token ids, never the features of an outer encoder."""

    @property
    def text(self) -> TextTransformerConfig:
        return TextTransformerConfig(
            vocab_size=self.vocab_size,
            context=self.text_context,
            width=self.text_width,
            layers=self.text_layers,
            heads=self.text_heads,
        )

    def build(self) -> "models.ar_prior.AutoregressivePrior":
        from models.ar_prior import AutoregressivePrior

        return AutoregressivePrior(self)
