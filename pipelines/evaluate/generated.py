"""Generated images against real ones: distances on named features, captions, nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from filters.intervals import wilson
from models.clip_heads import ClipHeads
from pipelines.encoders.base import Encoder, Precision
from pipelines.evaluate.distances import cmmd, kid
from pipelines.evaluate.ridge import cosine
from pipelines.evaluate.statistics import Figure, derangement, mean, paired_difference
from pipelines.retrieval import recall_at

Images = UInt8[np.ndarray, "n h w 3"]
RECALL_AT = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Described:
    """Images in both spaces of the encoder: the image tower's features, the joint one of images and text."""

    features: Float[np.ndarray, "n c"]
    embedding: Float[np.ndarray, "n d"]


@dataclass(frozen=True, kw_only=True)
class Eyes:
    """The encoder as evaluation uses it: one pass of the towers serves both spaces."""

    towers: Encoder
    heads: ClipHeads | None
    feature_name: str
    """Names the feature space in every metric on it."""
    embedding_name: str
    identity: Mapping[str, Any]
    """Of the joint space, as it travels with embeddings."""

    @staticmethod
    def open(name: str, heads: Path | None, threads: int, precision: Precision) -> Eyes:
        """`lit` with heads: EfficientNet-lite0 features and the heads' space.  Else one space is both."""
        from pipelines.encoders.lit import lit_identity, load_heads
        from pipelines.encoders.registry import load_encoder

        towers = load_encoder(name, threads=threads, precision=precision)
        if heads is None:
            return Eyes(
                towers=towers, heads=None, feature_name=name, embedding_name=name, identity=towers.identity
            )
        if name != "lit":
            raise ValueError(f"encoder {name!r} has a joint space of its own: leave clip_heads out")
        return Eyes(
            towers=towers,
            heads=load_heads(heads),
            feature_name="efficientnet-lite0",
            embedding_name=name,
            identity=lit_identity(heads, precision),
        )

    @torch.inference_mode()
    def look(self, images: Sequence[UInt8[np.ndarray, "h w 3"]]) -> Described:
        features = self.towers.encode_images(images)
        if self.heads is None:
            return Described(features=features, embedding=features)
        return Described(
            features=features, embedding=self.heads.encode_image(torch.from_numpy(features)).numpy()
        )

    @torch.inference_mode()
    def read(self, captions: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Text embeddings in the joint space."""
        features = self.towers.encode_texts(captions)
        return features if self.heads is None else self.heads.encode_text(torch.from_numpy(features)).numpy()


def distances(
    generated: Described, real: Described, train: Described, degraded: dict[str, Described], eyes: Eyes
) -> dict[str, Figure]:
    """KID on the tower's features and CMMD on the joint embedding: generated against held-out images.

    Beside them what the figures mean: training against held-out images (the floor: two samples of the real
    thing) and degraded held-out images against themselves undegraded (ceilings).
    """
    pairs = {"generated": (generated, "generated images"), "floor": (train, "training images (the floor)")}
    pairs |= {name: (d, f"held-out images with {name}") for name, d in degraded.items()}
    figures = {}
    for name, (images, what) in pairs.items():
        figures[f"kid_{name}"] = kid(
            images.features,
            real.features,
            what=f"KID on {eyes.feature_name} features: {what} against held-out",
        )
        figures[f"cmmd_{name}"] = cmmd(
            images.embedding,
            real.embedding,
            what=f"CMMD on {eyes.embedding_name} embeddings: {what} against held-out",
        )
    return figures


def caption_scores(
    generated: Float[np.ndarray, "n d"],
    real: Float[np.ndarray, "n d"],
    text: Float[np.ndarray, "n d"],
    *,
    encoder: str,
    seed: int,
) -> dict[str, Figure]:
    """Cosine of image and caption in the encoder's space, for held-out captions; row i is caption i.

    The prior saw the text embedding through the same encoder, so this says whether the cascade keeps what it
    was told, not how a person would see it.
    """
    other = derangement(len(text), seed)
    own, shuffled = cosine(generated, text), cosine(generated, text[other])
    score = f"{encoder} score"
    return {
        "score_generated": mean(own, seed=seed, what=f"{score} of generated images with their own caption"),
        "score_shuffled": mean(shuffled, seed=seed, what=f"{score} of generated images with another caption"),
        "score_real": mean(
            cosine(real, text), seed=seed, what=f"{score} of the real images with their caption"
        ),
        "score_own_minus_shuffled": paired_difference(
            own, shuffled, seed=seed, what=f"{score}, own caption minus another, same images"
        ),
    }


def recalls(
    images: Float[np.ndarray, "n d"], text: Float[np.ndarray, "n d"], *, name: str, what: str
) -> dict[str, Figure]:
    """Share of images whose own caption is among the k nearest of all n captions, with Wilson intervals."""
    n, figures = len(text), {}
    for k, p in recall_at(images, text, [k for k in RECALL_AT if k < len(text)]).items():
        low, high = wilson(round(p * n), n)
        error = (p * (1 - p) / n) ** 0.5
        figures[f"{name}_recall_at_{k}"] = Figure(
            value=p,
            low=low,
            high=high,
            standard_error=error,
            n=n,
            what=f"{what} among the {k} nearest of {n} (chance {k / n:.3f})",
        )
    return figures


def nearest(
    queries: Float[np.ndarray, "q d"], references: Float[np.ndarray, "n d"], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the references nearest to each query, and their cosines, nearest first: both (q, count)."""
    similarity = queries @ references.T
    rows = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return rows, np.take_along_axis(similarity, rows, axis=1)


def blurred(images: Images, radius_px: float = 3.0) -> Images:
    """Gaussian blur: a ceiling for distances."""
    from PIL import Image, ImageFilter

    blur = ImageFilter.GaussianBlur(radius_px)
    return np.stack([np.asarray(Image.fromarray(image).filter(blur)) for image in images])


def noised(images: Images, seed: int, sigma: float = 64.0) -> Images:
    """Gaussian noise of `sigma` 255ths: a ceiling for distances."""
    noise = np.random.default_rng(seed).normal(scale=sigma, size=images.shape)
    clipped = np.clip(np.rint(images + noise), 0, 255)
    return clipped.astype(np.uint8)
