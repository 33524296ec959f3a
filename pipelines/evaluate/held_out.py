"""What an evaluation reads, through the same stream that training reads: kept samples of one split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from infra.store import Artifact
from pipelines.train.index import build_index
from pipelines.train.stream import Batch, Stream, View


@dataclass(frozen=True, kw_only=True)
class Source:
    """The artifacts that samples come from, and how their captions are tokenised.

    Samples are the first of the split's permutation by `seed`: a random subset, the same for every reader.
    """

    corpus: Artifact
    embeddings: Artifact
    verdict: Artifact
    work: Path
    context: int
    vocab_size: int
    seed: int

    def read(
        self, split: str, count: int, *, side: int | None = None, crop: int | None = None, min_side: int = 0
    ) -> Batch:
        """At most `count` samples of `split`; with `side` their middle squares at that many pixels, with
        `crop` a random crop of those.

        `min_side` leaves out images whose shorter side is less.  Raises `ValueError` where none remains.
        """
        stream = self._stream(split, side, crop, min_side)
        return stream.read(0, min(count, len(stream)))

    def pictures_at(
        self, split: str, rows: Iterable[int], *, side: int
    ) -> dict[int, UInt8[np.ndarray, "side side 3"]]:
        """Images of single rows of what `read(split, ...)` returns, by row."""
        stream = self._stream(split, side, None, 0)
        return {row: pictures(stream.read(row, row + 1))[0] for row in rows}

    def _stream(self, split: str, side: int | None, crop: int | None, min_side: int) -> Stream:
        index = self.work / f"evaluate_{min_side}.arrow"
        if not index.is_file():
            build_index(
                index,
                self.corpus,
                self.embeddings,
                self.verdict,
                context=self.context,
                vocab_size=self.vocab_size,
                min_side=min_side,
            )
        view = None if side is None else View(side=side, crop=crop)
        return Stream(index, split=split, seed=self.seed, context=self.context, view=view, cache_bytes=0)


def pictures(batch: Batch) -> UInt8[np.ndarray, "n h w 3"]:
    """The batch's images, channels last.  Raises `ValueError` where it was read without a `side`."""
    if batch.image_u8 is None:
        raise ValueError("these samples were read without images: give read() a side")
    return np.ascontiguousarray(batch.image_u8.transpose(0, 2, 3, 1))


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A batch's captions as the networks take them."""

    tokens: Int[Tensor, "n L"]
    mask: Bool[Tensor, "n L"]
    text_embedding: Float[Tensor, "n d"]

    @staticmethod
    def of(batch: Batch) -> Prompts:
        return Prompts(
            tokens=torch.from_numpy(batch.tokens),
            mask=torch.from_numpy(batch.mask),
            text_embedding=torch.from_numpy(batch.text_embedding),
        )

    def take(self, rows: slice) -> Prompts:
        return Prompts(
            tokens=self.tokens[rows], mask=self.mask[rows], text_embedding=self.text_embedding[rows]
        )

    def repeat(self, times: int) -> Prompts:
        """Every prompt `times` times, next to each other."""
        return Prompts(
            tokens=self.tokens.repeat_interleave(times, dim=0),
            mask=self.mask.repeat_interleave(times, dim=0),
            text_embedding=self.text_embedding.repeat_interleave(times, dim=0),
        )
