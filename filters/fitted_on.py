"""Heads that read image embeddings of one CLIP model only: which one, and the check that it made them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class EncoderFit:
    """The encoder that a head was fitted on.

    models: open_clip's names of it; pretrained: open_clip's tag of the weights; width: of the embeddings.
    """

    models: tuple[str, ...]
    pretrained: str
    width: int

    def __str__(self) -> str:
        return f"open_clip:{self.models[0]}/{self.pretrained} (width {self.width})"

    def problem(self, encoder: Mapping[str, Any]) -> str | None:
        """What speaks against an encoder of this identity (`name`, `weights`), or None.

        A checkpoint given by path carries no tag: its model's name alone is compared.
        """
        name, tag = str(encoder.get("name")), encoder.get("weights", {}).get("pretrained")
        if name.removeprefix("open_clip:") in self.models and tag in (None, self.pretrained):
            return None
        return f"expected embeddings of {self}, got those of {name}{f'/{tag}' if tag else ''}"

    def unit_rows(self, embeddings: Float[np.ndarray, "n d"], scorer: str) -> Float[np.ndarray, "n d"]:
        """The embeddings in float64 with unit norm; a zero row becomes NaN, which `checked_scores` refuses.

        Raises ValueError where they have another width.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self.width:
            raise ValueError(
                f"scorer {scorer!r}: expected image embeddings of {self}, got shape {embeddings.shape}; "
                "annotate with that encoder, or take the head that was fitted on yours"
            )
        return unit(embeddings)


VIT_L_14 = EncoderFit(models=("ViT-L-14-quickgelu", "ViT-L-14"), pretrained="openai", width=768)
VIT_B_32 = EncoderFit(models=("ViT-B-32-quickgelu", "ViT-B-32"), pretrained="openai", width=512)
CLIP_MODELS = {"vit_l_14": VIT_L_14, "vit_b_32": VIT_B_32}


@runtime_checkable
class FittedOn(Protocol):
    """A scorer whose scores mean nothing on another encoder's embeddings."""

    encoder: EncoderFit


def clip_model(scorer: str, name: str) -> EncoderFit:
    """The model of this name; ValueError names the known ones."""
    if name not in CLIP_MODELS:
        raise ValueError(f"scorer {scorer!r}: expected model {' or '.join(CLIP_MODELS)}, got {name!r}")
    return CLIP_MODELS[name]


def unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows in float64 with unit norm; NaN where a row is zero or not finite."""
    rows = rows.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
