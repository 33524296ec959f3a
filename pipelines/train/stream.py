"""The training stream: deterministic, random access, resumable anywhere.

The stream is an endless sequence of samples: epoch after epoch, each in a permutation that depends on
(seed, epoch) alone.  Global batch k is positions [k B, (k + 1) B) of it, whatever the number of ranks or
prefetching threads; rank r of R reads the r-th of R equal slices.  So a cursor is a single number, and a
run may go on with another number of ranks.

B batch, L text context, d embedding width, H = W side in pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Int64, UInt8

from pipelines.pixels import UnreadableImageError, rgb

CROP_ALIGNMENT = 8
"""Crops begin at multiples of this many pixels, so that their low resolution versions, at any usual scale,
lie on the low resolution grid of the whole image."""


class DamagedImageError(ValueError):
    """A sample of the corpus whose image does not decode."""


class DamagedEmbeddingError(ValueError):
    """A sample of the corpus whose embedding is not of finite numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A rank's slice of a global batch, in the order of the stream."""

    keys: tuple[str, ...]
    captions: tuple[str, ...]
    positions: Int64[np.ndarray, " B"]
    """Positions in the stream: they seed whatever is random about a sample."""
    weight: Float32[np.ndarray, " B"]
    """Mean 1 over the split."""
    image_embedding: Float32[np.ndarray, "B d"]
    text_embedding: Float32[np.ndarray, "B d"]
    tokens: Int64[np.ndarray, "B L"]
    mask: Bool[np.ndarray, "B L"]
    image_u8: UInt8[np.ndarray, "B 3 H W"] | None

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, part: slice) -> Batch:
        """Some of the samples, in order."""
        return Batch(
            keys=self.keys[part],
            captions=self.captions[part],
            positions=self.positions[part],
            weight=self.weight[part],
            image_embedding=self.image_embedding[part],
            text_embedding=self.text_embedding[part],
            tokens=self.tokens[part],
            mask=self.mask[part],
            image_u8=None if self.image_u8 is None else self.image_u8[part],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What of an image a stage sees: `side` pixels after the centre crop, or a random crop of `crop` of
    those."""

    side: int
    crop: int | None = None

    def __post_init__(self) -> None:
        if self.crop is not None and not 0 < self.crop <= self.side:
            raise ValueError(f"View.crop: expected 1 to {self.side} (the side), got {self.crop}")


def epoch_order(seed: int, epoch: int, count: int) -> Int64[np.ndarray, " count"]:
    """The permutation of an epoch: a pure function of its arguments."""
    return np.random.default_rng([seed, epoch]).permutation(count)


class Stream:
    """Samples of one split.  Safe to read from several threads."""

    def __init__(
        self,
        index: Path,
        *,
        split: str,
        seed: int,
        context: int | None = None,
        view: View | None = None,
        cache_bytes: int = 64 * 2**20,
    ) -> None:
        """Without a `view` no image is decoded.  `cache_bytes` bounds the decoded thumbnails kept in memory.
        `context` may be given to make sure that the index was tokenised for it."""
        table = pa.ipc.open_file(pa.memory_map(str(index))).read_all()
        files = {name.decode(): value.decode().split("\n") for name, value in table.schema.metadata.items()}
        self._rows = table.filter(pc.equal(table["split"], split)).drop_columns(["split"])
        if len(self._rows) == 0:
            raise ValueError(f"{index}: no sample in split {split!r}")
        self.seed, self.context, self.view = seed, int(files["context"][0]), view
        if context is not None and context != self.context:
            raise ValueError(f"{index}: captions are cut to {self.context} tokens, expected {context}")
        self._columns = {
            name: self._rows[name].combine_chunks().to_numpy(zero_copy_only=False)
            for name in ("shard", "row", "offset", "size_bytes")
        }
        weight = self._rows["weight"].to_numpy().astype(np.float64)
        self._weight = (weight / weight.mean()).astype(np.float32)
        self._image_embeddings = [_open_embeddings(path) for path in files["image_embeddings"]]
        self._text_embeddings = [_open_embeddings(path) for path in files["text_embeddings"]]
        self._tars = _Files(files["tars"])
        self._thumbnails = _Thumbnails(cache_bytes)
        self._order = lru_cache(maxsize=2)(lambda epoch: epoch_order(self.seed, epoch, len(self)))

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self._rows)

    def cursor(self, position: int) -> tuple[int, int]:
        """(epoch, position in the epoch) of a position in the stream."""
        return divmod(position, len(self))

    def read(self, start: int, stop: int) -> Batch:
        """The samples at positions [start, stop) of the shuffled stream."""
        samples = [self._order(epoch)[place] for epoch, place in map(self.cursor, range(start, stop))]
        return self._batch(np.array(samples), np.arange(start, stop))

    def read_in_key_order(self, start: int, stop: int) -> Batch:
        """Samples by their place in the corpus, for evaluation; positions count from 0 likewise."""
        return self._batch(np.arange(start, stop), np.arange(start, stop))

    def slices(
        self, first: int, last: int, *, batch: int, rank: int, ranks: int, prefetch: int = 2
    ) -> Iterator[Batch]:
        """This rank's slices of the global batches [first, last), read ahead by `prefetch` threads."""
        local = batch // ranks
        spans = ((k * batch + rank * local, k * batch + (rank + 1) * local) for k in range(first, last))
        if prefetch == 0:
            yield from (self.read(*span) for span in spans)
            return
        with ThreadPoolExecutor(prefetch, thread_name_prefix="decode") as pool, ExitStack() as stack:
            waiting: list[Future[Batch]] = []
            # A consumer that stops early must not wait for what nobody will read.
            stack.callback(lambda: [future.cancel() for future in waiting])
            for span in spans:
                waiting.append(pool.submit(self.read, *span))
                if len(waiting) > prefetch:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()

    def _batch(self, samples: np.ndarray, positions: np.ndarray) -> Batch:
        rows = self._rows.take(pa.array(samples))
        tokens, mask = self._tokens(rows["tokens"].to_pylist())
        image = None
        if self.view is not None:
            pairs = zip(samples, positions, strict=True)
            image = np.stack([self._image(int(s), int(p)) for s, p in pairs])
        return Batch(
            keys=tuple(rows["key"].to_pylist()),
            captions=tuple(rows["caption"].to_pylist()),
            positions=positions.astype(np.int64),
            weight=self._weight[samples],
            image_embedding=self._embeddings(self._image_embeddings, samples),
            text_embedding=self._embeddings(self._text_embeddings, samples),
            tokens=tokens,
            mask=mask,
            image_u8=image,
        )

    def _tokens(self, lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.zeros((len(lists), self.context), np.int64)
        mask = np.zeros((len(lists), self.context), bool)
        for row, tokens in enumerate(lists):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask

    def _embeddings(self, shards: list[np.memmap], samples: np.ndarray) -> Float32[np.ndarray, "B d"]:
        """Raises `DamagedEmbeddingError` naming the file and the row: as a loss they would look diverged."""
        places = list(zip(self._columns["shard"][samples], self._columns["row"][samples], strict=True))
        values = np.stack([shards[shard][row] for shard, row in places]).astype(np.float32)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            shard, row = places[int(finite.argmin())]
            raise DamagedEmbeddingError(
                f"{shards[shard].filename}, row {row}: expected finite numbers, got NaN or infinity; embed "
                f"this shard again"
            )
        # Stored as float16: back to the norm that rounding took away.
        unit: np.ndarray = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        return unit

    def _image(self, sample: int, position: int) -> UInt8[np.ndarray, "3 H W"]:
        assert self.view is not None
        side, crop = self.view.side, self.view.crop
        image = self._thumbnails.get(sample)
        if image is None:
            image = decode_square(self._bytes(sample), side, self._rows["key"][sample].as_py())
            self._thumbnails.put(sample, image)
        if crop is None or crop == side:
            return image
        key = self._rows["key"][sample].as_py()
        top, left = crop_corner(self.seed, self.cursor(position)[0], key, side, crop)
        return np.ascontiguousarray(image[:, top : top + crop, left : left + crop])

    def _bytes(self, sample: int) -> bytes:
        c = self._columns
        return self._tars.read(
            int(c["shard"][sample]), int(c["offset"][sample]), int(c["size_bytes"][sample])
        )


def crop_corner(seed: int, epoch: int, key: str, side: int, crop: int) -> tuple[int, int]:
    """Top and left of a sample's crop in an epoch: a function of its arguments, hence of no rank."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    places = (side - crop) // CROP_ALIGNMENT + 1
    top, left = np.random.default_rng([seed, epoch, number]).integers(0, places, 2) * CROP_ALIGNMENT
    return int(top), int(left)


def decode_square(data: bytes, side: int, where: str) -> UInt8[np.ndarray, "3 side side"]:
    """Decode, crop the centre square, and resize it to `side` pixels (bicubic, antialiased).

    Pixels as annotation saw them (`pixels.rgb`).  Raises `DamagedImageError` naming `where`.
    """
    from PIL import Image

    try:
        image = rgb(data)
    except UnreadableImageError as error:
        raise DamagedImageError(f"sample {where}: {error}") from error
    edge = min(image.size)
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    box = (left, top, left + edge, top + edge)
    square = image.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _open_embeddings(path: str) -> np.memmap:
    array: np.memmap = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


class _Files:
    """Open tar files, read at offsets: `pread` has no position that threads could race for."""

    def __init__(self, paths: list[str], limit: int = 256) -> None:
        self._paths, self._limit = paths, limit
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()

    def read(self, number: int, offset: int, size: int) -> bytes:
        with self._lock:
            stream = self._open.pop(number, None) or Path(self._paths[number]).open("rb")  # noqa: SIM115
            self._open[number] = stream
            if len(self._open) > self._limit:
                self._open.popitem(last=False)  # closed when the last reader lets go of it
        data = os.pread(stream.fileno(), size, offset)
        if len(data) != size:
            raise OSError(
                f"{self._paths[number]}: {len(data)} bytes at {offset}, expected {size}: cut short?"
            )
        return data


class _Thumbnails:
    """Decoded images, the least recently used dropped first."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._held = limit_bytes, 0
        self._images: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def get(self, sample: int) -> np.ndarray | None:
        with self._lock:
            if sample in self._images:
                self._images.move_to_end(sample)
            return self._images.get(sample)

    def put(self, sample: int, image: np.ndarray) -> None:
        with self._lock:
            if sample not in self._images:
                self._images[sample] = image
                self._held += image.nbytes
            while self._held > self._limit:
                self._held -= self._images.popitem(last=False)[1].nbytes
