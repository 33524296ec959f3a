"""From a shard to decoded chunks: the CPU side of annotation.  Every image is read and decoded once, here."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import UInt8, UInt64

from infra.shards import IMAGE_EXTENSIONS
from pipelines.aligned import require_same_keys
from pipelines.pixels import AnimatedImageError, UnreadableImageError, rgb

SUCCESS = "success"
DAMAGED = "damaged_image"
ANIMATED = "animated_image"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Where a sample lies in its tar, as (offset, size) in bytes; `sha256` of the bytes as fetched."""

    key: str
    image: tuple[int, int]
    caption: tuple[int, int] | None
    sha256: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedChunk:
    """Consecutive samples of one shard.  An image that is damaged or animated is None, its
    status says so, its hashes are zero."""

    shard: str
    index: int
    keys: list[str]
    captions: list[str]
    statuses: list[str]
    sha256: list[str]
    images: list[UInt8[np.ndarray, "h w 3"] | None]
    hashes: UInt64[np.ndarray, "n 2"]
    thumbnails: UInt8[np.ndarray, "n 768"]

    @property
    def intact(self) -> list[int]:
        """Positions of the samples that could be decoded."""
        return [i for i, status in enumerate(self.statuses) if status == SUCCESS]


def index_shard(corpus: Path, shard: str) -> list[Entry]:
    """Entries of a shard in key order.

    Raises MisalignedError unless the tar holds exactly the samples that the shard's Parquet calls fetched,
    and ValueError naming the shard when the tar cannot be read.
    """
    table = pq.read_table(corpus / f"{shard}.parquet")
    rows = [row for row in table.to_pylist() if row["status"] == SUCCESS]
    digests = {row["key"]: row.get("sha256") for row in rows}
    entries = [
        Entry(key=key, image=places["image"], caption=places.get("txt"), sha256=digests.get(key))
        for key, places in sorted(_members(corpus / f"{shard}.tar").items())
        if "image" in places
    ]
    require_same_keys(shard, [row["key"] for row in rows], [e.key for e in entries], "corpus tar")
    return entries


def decode_chunk(corpus: Path, shard: str, entries: Sequence[Entry], index: int, size: int) -> DecodedChunk:
    """Decode samples `index * size` and following of a shard; one damaged image costs one row, no more."""
    from filters.duplicates import fingerprints

    part = entries[index * size : (index + 1) * size]
    images: list[UInt8[np.ndarray, "h w 3"] | None] = []
    captions, digests, statuses = [], [], []
    with (corpus / f"{shard}.tar").open("rb") as stream:
        for entry in part:
            data = read_member(stream, entry.image)
            image, status = decode(data)
            images.append(image)
            statuses.append(status)
            digests.append(entry.sha256 or hashlib.sha256(data).hexdigest())
            caption = read_member(stream, entry.caption) if entry.caption else b""
            captions.append(caption.decode("utf-8", errors="replace"))
    intact = [i for i, image in enumerate(images) if image is not None]
    hashes, thumbnails = np.zeros((len(part), 2), np.uint64), np.zeros((len(part), 768), np.uint8)
    hashes[intact], thumbnails[intact] = fingerprints([image for image in images if image is not None])
    return DecodedChunk(
        shard=shard,
        index=index,
        keys=[entry.key for entry in part],
        captions=captions,
        statuses=statuses,
        sha256=digests,
        images=images,
        hashes=hashes,
        thumbnails=thumbnails,
    )


def _members(tar: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """For each key its members' places: `image` and, where present, `txt`."""
    places: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(tar) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                kind = "image" if extension in IMAGE_EXTENSIONS else extension
                if member.isfile() and kind in ("image", "txt"):
                    places.setdefault(key, {})[kind] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"shard {tar.stem}: {tar} cannot be read ({error}); acquire it again") from error
    return places


def read_member(stream: io.BufferedReader, place: tuple[int, int]) -> bytes:
    """The bytes at (offset, size)."""
    stream.seek(place[0])
    return stream.read(place[1])


def decode(data: bytes) -> tuple[UInt8[np.ndarray, "h w 3"] | None, str]:
    """RGB pixels and the status; None where the bytes are no whole image, or an animation, whose other frames
    nobody would have seen."""
    try:
        return np.asarray(rgb(data, still=True)), SUCCESS
    except AnimatedImageError:
        return None, ANIMATED
    except UnreadableImageError:
        return None, DAMAGED
