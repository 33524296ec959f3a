"""The actor that holds the encoder and the scorers: decoded chunks in, embeddings and scores out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from filters.one_pass import score_in_one_pass
from filters.scorer import ReadsPrompts, Samples
from pipelines.annotate.apart import Apart, RunsApart
from pipelines.annotate.chunks import DecodedChunk
from pipelines.annotate.config import AnnotateConfig
from pipelines.encoders.registry import load_encoder

THUMBNAIL_BYTES = 768


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatedChunk:
    """Everything known of a chunk's samples, in their order; rows of damaged images are zero and null."""

    image_embeddings: Float[np.ndarray, "n d"]
    text_embeddings: Float[np.ndarray, "n e"]
    metadata: pa.Table
    batch: int
    """Rows of a forward pass: smaller than configured where memory ran out."""


class Annotator:
    """Loads every model once; one instance per actor."""

    def __init__(self, config: AnnotateConfig) -> None:
        self.config = config
        self.encoder = load_encoder(
            config.encoder,
            threads=config.threads,
            device=config.device,
            precision=config.precision,
            batch=config.batch,
        )
        loaded = [config.load_scorer(name) for name in config.scorers]
        self.scorers = [Apart(s, s.environment) if isinstance(s, RunsApart) else s for s in loaded]
        for scorer in self.scorers:
            if isinstance(scorer, ReadsPrompts):
                scorer.use_prompts(self.encoder.encode_texts(scorer.prompts))

    def identity(self) -> dict[str, Any]:
        """The encoder's identity."""
        return self.encoder.identity

    def annotate(self, chunk: DecodedChunk) -> AnnotatedChunk:
        """Embed and score a chunk's intact samples."""
        intact = chunk.intact
        captions = [chunk.captions[i] for i in intact]
        images = [image for image in chunk.images if image is not None]
        image_vectors, image_batch = self._encode(self.encoder.encode_images, images)
        text_vectors, text_batch = self._encode(self.encoder.encode_texts, captions)
        samples = Samples(
            keys=[chunk.keys[i] for i in intact],
            images=images,
            captions=captions,
            image_embeddings=image_vectors,
            text_embeddings=text_vectors,
        )
        scores = score_in_one_pass(self.scorers, samples)
        return AnnotatedChunk(
            image_embeddings=_spread(image_vectors, intact, len(chunk.keys)),
            text_embeddings=_spread(text_vectors, intact, len(chunk.keys)),
            metadata=_metadata(chunk, scores),
            batch=min(image_batch, text_batch),
        )

    def _encode(self, encode: Callable[..., np.ndarray], items: list[Any]) -> tuple[np.ndarray, int]:
        """Vectors, and the batch they were made with: the configured one unless memory ran out."""
        import torch

        try:
            return encode(items), self.config.batch
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        # Outside the handler: the exception's traceback would keep the failed pass's tensors alive.
        return encode(items, batch=self.config.fallback_batch), self.config.fallback_batch


def _spread(values: Float[np.ndarray, "m d"], rows: list[int], count: int) -> Float[np.ndarray, "n d"]:
    """float16 rows at their places among `count`, zeros elsewhere."""
    spread = np.zeros((count, values.shape[1]), np.float16)
    spread[rows] = values
    return spread


def _metadata(chunk: DecodedChunk, scores: Mapping[str, np.ndarray]) -> pa.Table:
    rows, intact = len(chunk.keys), chunk.intact
    sides = [(0, 0) if image is None else image.shape[:2] for image in chunk.images]
    columns: dict[str, pa.Array] = {
        "key": pa.array(chunk.keys, pa.string()),
        "caption": pa.array(chunk.captions, pa.string()),
        "status": pa.array(chunk.statuses, pa.string()),
        "sha256": pa.array(chunk.sha256, pa.string()),
        "width": pa.array([width for _, width in sides], pa.int32()),
        "height": pa.array([height for height, _ in sides], pa.int32()),
        "phash": pa.array(chunk.hashes[:, 0], pa.uint64()),
        "dhash": pa.array(chunk.hashes[:, 1], pa.uint64()),
        "thumbnail": pa.array([row.tobytes() for row in chunk.thumbnails], pa.binary(THUMBNAIL_BYTES)),
    }
    missing = np.ones(rows, bool)
    missing[intact] = False
    for name, values in scores.items():
        spread = np.zeros(rows, np.float32)
        spread[intact] = values
        columns[name] = pa.array(spread, mask=missing)
    return pa.table(columns)
