"""Cosine of image and caption embeddings: CLIPScore without its factor (Hessel et al. 2021, eq. 1)."""

from typing import Any

import numpy as np
from jaxtyping import Float

from filters.scorer import Samples, ScoreSpec


class EmbeddingSimilarity:
    """How well caption and image agree, in the eyes of the encoder that made the embeddings.

    The number has no meaning across encoders: a threshold belongs to one encoder identity.
    """

    name = "embedding_similarity"
    version = 1
    needs = frozenset({"image_embeddings", "text_embeddings"})
    specs = (
        ScoreSpec(
            name="image_text_cosine",
            low=-1.0,
            high=1.0,
            worse="low",
            description="cosine of image and caption embedding",
        ),
    )

    def identity(self) -> dict[str, Any]:
        return {}

    def score(self, samples: Samples) -> dict[str, Float[np.ndarray, " n"]]:
        """A zero or non-finite embedding has no direction: NaN, which `checked_scores` refuses."""
        image, text = samples.image_embeddings, samples.text_embeddings
        assert image is not None and text is not None, "checked_scores checks needs"
        if image.shape != text.shape:
            raise ValueError(
                f"expected image and text embeddings of one encoder, got {image.shape} and {text.shape}"
            )
        return {"image_text_cosine": cosine_rows(image, text)}


def cosine_rows(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Row-wise cosine in [-1, 1], summed in float64; NaN where a row is zero or not finite."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.einsum("nd,nd->n", a64, b64) / norms
    # Rounding puts parallel vectors a hair beyond 1.
    return np.clip(cosine, -1.0, 1.0).astype(np.float32)
