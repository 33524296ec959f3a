"""What duplicates are found by, of all samples of an annotation: read shard by shard, thumbnails on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, Int64, UInt8, UInt64

from pipelines.concepts import compile_ignored, concept_of

COLUMNS = ["key", "caption", "status", "sha256", "width", "height", "phash", "dhash", "thumbnail"]
THUMBNAIL = 768
_SHA256, _CONCEPT = "S64", "S16"
NO_CONCEPT = b""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprints:
    """Of n samples in corpus order, m of them intact; some 200 bytes of memory a sample.

    concepts: 16 bytes of a digest of each caption's concept, `NO_CONCEPT` where no word is left.
    """

    keys: pa.Array
    intact: Bool[np.ndarray, " n"]
    areas: Int64[np.ndarray, " n"]
    concepts: np.ndarray
    sha256: np.ndarray
    """Of the intact samples, as are the hashes and the thumbnails."""
    hashes: UInt64[np.ndarray, "m 2"]
    thumbnails: UInt8[np.ndarray, "m 768"]
    """A file that is mapped into memory."""
    lengths: tuple[int, ...]
    """Samples of each table that was read."""

    @staticmethod
    def read(tables: Iterable[pa.Table], folder: Path, ignored: Sequence[str] = ()) -> Fingerprints:
        """From metadata tables with `COLUMNS`; the thumbnails go to a file in `folder`, which exists.

        `ignored`: patterns of what makes no other concept of a caption.
        """
        patterns = compile_ignored(ignored)
        keys, intact, areas, concepts, sha256, hashes = ([] for _ in range(6))
        path = folder / "thumbnails.u8"
        with path.open("wb") as file:
            for table in tables:
                mask = np.array(pc.equal(table["status"], "success"))
                used = table.filter(pa.array(mask))
                keys.append(table["key"].cast(pa.large_string()))
                intact.append(mask)
                areas.append(table["width"].to_numpy().astype(np.int64) * table["height"].to_numpy())
                captions = table["caption"].to_pylist()
                concepts.append(np.array([_digest(concept_of(c, patterns)) for c in captions], _CONCEPT))
                sha256.append(np.array(used["sha256"].to_pylist(), _SHA256))
                hashes.append(np.stack([used["phash"].to_numpy(), used["dhash"].to_numpy()], axis=1))
                file.writelines(used["thumbnail"].to_pylist())
        return Fingerprints(
            keys=pa.chunked_array(keys, pa.large_string()).combine_chunks(),
            intact=np.concatenate([np.zeros(0, bool), *intact]),
            areas=np.concatenate([np.zeros(0, np.int64), *areas]),
            concepts=np.concatenate([np.zeros(0, _CONCEPT), *concepts]),
            sha256=np.concatenate([np.zeros(0, _SHA256), *sha256]),
            hashes=np.concatenate([np.zeros((0, 2), np.uint64), *hashes]),
            thumbnails=_mapped(path),
            lengths=tuple(map(len, intact)),
        )

    def key_places(self) -> Int[np.ndarray, " n"]:
        """Place of each sample's key among all keys, sorted."""
        places = np.empty(len(self.keys), np.int64)
        places[pc.array_sort_indices(self.keys).to_numpy()] = np.arange(len(self.keys))
        return places


def same_concept(concepts: np.ndarray) -> list[Int[np.ndarray, " rows"]]:
    """Rows of each concept that more than one row has, ascending; rows without a word have no concept."""
    rows = np.flatnonzero(concepts != NO_CONCEPT)
    order = rows[np.argsort(concepts[rows], kind="stable")]
    groups = np.split(order, np.flatnonzero(concepts[order][1:] != concepts[order][:-1]) + 1)
    return [group for group in groups if len(group) > 1]


def _digest(concept: str) -> bytes:
    return hashlib.blake2b(concept.encode(), digest_size=16).digest() if concept else NO_CONCEPT


def _mapped(path: Path) -> UInt8[np.ndarray, "m 768"]:
    if not path.stat().st_size:  # nothing cannot be mapped
        return np.zeros((0, THUMBNAIL), np.uint8)
    return np.memmap(path, np.uint8, mode="r").reshape(-1, THUMBNAIL)
