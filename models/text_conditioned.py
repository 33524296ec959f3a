"""The text pathway that decoders and text-conditional upsamplers share."""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.config_text import TextFeaturesConfig, TextTransformerConfig
from models.text_features import Conditioning, TextFeatures
from models.text_transformer import TextTransformer


class TextConditioned(nn.Module):
    """A network that reads token ids through GLIDE's transformer (2112.10741, section 3.1), or the features
    of an outer encoder."""

    text: TextFeatures | TextTransformer

    def add_text(self, config: TextTransformerConfig | TextFeaturesConfig, time_width: int) -> None:
        """Builds the pathway into a U-Net whose timestep embedding has `time_width`."""
        if isinstance(config, TextFeaturesConfig):
            self.text = TextFeatures(config)
        else:
            self.text = TextTransformer(config)
            self.text_to_time = nn.Linear(config.width, time_width)

    def encode_text(
        self,
        text: Int[Tensor, "B L"] | Float[Tensor, "B L c"],
        mask: Bool[Tensor, "B L"],
        drop: Bool[Tensor, " B"] | None = None,
        pooled: Float[Tensor, "B p"] | None = None,
    ) -> Conditioning:
        """What the U-Net sees of the text; where `drop` is True, of the empty one or of the features' null.

        Raises `ValueError` on ids where features are expected and the other way round.
        """
        name, config = type(self).__name__, self.text.config
        wants = "token ids [B, L]"
        if isinstance(config, TextFeaturesConfig):
            wants = f"features [B, L, {config.features_dim}]"
        if text.is_floating_point() != isinstance(config, TextFeaturesConfig):
            raise ValueError(f"{name}: expected {wants}, got {text.dtype} of shape {tuple(text.shape)}")
        if isinstance(self.text, TextFeatures):
            return self.text(text, mask, pooled, drop)
        if pooled is not None:
            raise ValueError(f"{name}: expected no pooled text vector, got one of width {pooled.shape[1]}")
        encoded = self.text(text, mask if drop is None else mask & ~drop[:, None])
        return Conditioning(
            time_shift=self.text_to_time(encoded[:, -1]), context=encoded.transpose(1, 2).contiguous()
        )
