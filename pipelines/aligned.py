"""Reading artifacts that lie beside a corpus: same shards, same key order, or a clear refusal.

Layouts (`00000` is a shard):

- corpus: `00000.tar` (fetched samples) and `00000.parquet` (every input row, failed ones included)
- annotation, embeddings (clip-retrieval's layout): `img_emb/img_emb_00000.npy`, `text_emb/text_emb_00000.npy`
  (float16, unit norm unless the encoder identity says otherwise) and `metadata/metadata_00000.parquet` with
  `key`, `caption` and the scores: one row per *fetched* sample
- clusters: `00000.parquet`, one row per fetched sample
- verdict: `00000.parquet`, one row for *every* input row of the corpus
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.store import Artifact

ENCODER_FILE = "encoder.json"


class MisalignedError(ValueError):
    """Two artifacts that should describe the same samples do not."""


def embedding_file(which: Literal["img", "text"], shard: str) -> str:
    """Relative name of a shard's embeddings in clip-retrieval's layout."""
    return f"{which}_emb/{which}_emb_{shard}.npy"


def metadata_file(shard: str) -> str:
    """Relative name of a shard's metadata in clip-retrieval's layout."""
    return f"metadata/metadata_{shard}.parquet"


def read_embeddings(artifact: Artifact, which: Literal["img", "text"], shard: str) -> np.ndarray:
    """Memory-mapped embeddings of one shard, shape (samples, dimension)."""
    array: np.ndarray = np.load(
        artifact.path / embedding_file(which, shard), mmap_mode="r", allow_pickle=False
    )
    return array


def read_metadata(artifact: Artifact, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Metadata (key, caption, scores) of one shard of an annotation or embeddings artifact."""
    return _read(artifact.path / metadata_file(shard), columns)


def read_table(artifact: Artifact, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The shard's Parquet of a corpus, clusters or verdict artifact."""
    return _read(artifact.path / f"{shard}.parquet", columns)


def _read(path: Path, columns: Sequence[str] | None) -> pa.Table:
    """The columns in the order asked for.  `pq.read_table` would import all of pandas first."""
    with pq.ParquetFile(path) as file:
        table = file.read(columns=None if columns is None else list(columns))
    return table if columns is None else table.select(columns)


def shard_names(artifact: Artifact) -> list[str]:
    """Names of the artifact's shards, sorted."""
    return [record.name for record in artifact.shards]


def encoder_identity(artifact: Artifact) -> dict[str, Any]:
    """Name, weight digest, preprocessing, tokenizer, dimension and precision of the embeddings' encoder."""
    identity: dict[str, Any] = json.loads((artifact.path / ENCODER_FILE).read_bytes())
    return identity


def require_same_shards(*artifacts: Artifact) -> list[str]:
    """Shard names common to all; raises `MisalignedError` naming the first that is missing somewhere."""
    first, *others = artifacts
    names = shard_names(first)
    for other in others:
        theirs = shard_names(other)
        if theirs != names:
            odd = sorted(set(names) ^ set(theirs))[:1] or ["(another order)"]
            raise MisalignedError(
                f"{first.kind} has {len(names)} shards and {other.kind} {len(theirs)}; first that differs: "
                f"{odd[0]}. Were both made from the same corpus?"
            )
    return names


def require_same_keys(shard: str, expected: Iterable[str], got: Iterable[str], what: str) -> None:
    """Raise `MisalignedError` naming shard and first differing key unless both sequences are equal."""
    left, right = list(expected), list(got)
    if left == right:
        return
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            raise MisalignedError(f"{what}, shard {shard}: key {position} is {b!r}, expected {a!r}")
    raise MisalignedError(f"{what}, shard {shard}: {len(right)} keys, expected {len(left)}")
