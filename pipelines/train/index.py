"""The index of a training stream: where each usable sample's bytes, embeddings and tokens are.

Built once by the driver from corpus, embeddings and verdict, and memory-mapped by every rank, so that ranks
on one node share its pages.  About 150 bytes a sample: 10 million samples are 1.5 GB of page cache.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra.shards import IMAGE_EXTENSIONS
from infra.store import Artifact, commit_file
from pipelines.aligned import (
    embedding_file,
    read_metadata,
    read_table,
    require_same_keys,
    require_same_shards,
)
from pipelines.forget.rows import refuse_forgotten
from pipelines.train.tokens import tokenize_captions

SPLITS = ("train", "validation", "test")

SCHEMA = pa.schema(
    {
        "split": pa.string(),
        "key": pa.string(),
        "shard": pa.int32(),
        "row": pa.int32(),
        "offset": pa.int64(),
        "size_bytes": pa.int32(),
        "weight": pa.float32(),
        "caption": pa.string(),
        "tokens": pa.list_(pa.int32()),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexCounts:
    """How many kept samples each split has, and what was done to them on the way into the index."""

    used: dict[str, int]
    too_small: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    truncated_captions: int = 0


def build_index(
    path: Path,
    corpus: Artifact,
    embeddings: Artifact,
    verdict: Artifact,
    *,
    context: int | None = None,
    vocab_size: int | None = None,
    min_side: int = 0,
) -> IndexCounts:
    """Write the index of all kept samples whose shorter side is at least `min_side` pixels.

    With `context` and `vocab_size` captions are tokenised; without, their token lists are empty.  Raises
    `MisalignedError` where the artifacts do not describe the same samples in the same order, `ForgottenError`
    where the verdict keeps what was forgotten since, and `ValueError` where no training sample remains.
    """
    refuse_forgotten(verdict)
    used, too_small = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    truncated = 0
    temporary = path.with_suffix(".tmp")
    with (
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, _schema(corpus, embeddings, context)) as out,
    ):
        for number, shard in enumerate(require_same_shards(corpus, embeddings, verdict)):
            rows = []
            for row in _kept_rows(corpus, embeddings, verdict, shard):
                small = min(row["width"], row["height"]) < min_side
                (too_small if small else used)[row["split"]] += 1
                if not small:
                    rows.append(row | {"shard": number})
            if context is not None and vocab_size is not None and rows:
                tokens = tokenize_captions([row["caption"] for row in rows], context, vocab_size)
                truncated += tokens.truncated
                for row, ids, mask in zip(rows, tokens.ids, tokens.mask, strict=True):
                    row["tokens"] = ids[mask].tolist()
            out.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    if used["train"] == 0:
        at_least = f" of at least {min_side} px" if min_side else ""
        raise ValueError(
            f"no sample{at_least} is kept for training ({sum(too_small.values())} are too small); "
            f"see the verdict's report, or lower the resolution"
        )
    commit_file(temporary, path)
    return IndexCounts(used=used, too_small=too_small, truncated_captions=truncated)


def _schema(corpus: Artifact, embeddings: Artifact, context: int | None) -> pa.Schema:
    """The columns, the tokens a caption may have, and the files that the rows of each shard number point
    into."""
    names = [record.name for record in corpus.shards]
    return SCHEMA.with_metadata(
        {
            "context": str(context or 0),
            "tars": "\n".join(str(corpus.path / f"{name}.tar") for name in names),
            "image_embeddings": "\n".join(str(embeddings.path / embedding_file("img", n)) for n in names),
            "text_embeddings": "\n".join(str(embeddings.path / embedding_file("text", n)) for n in names),
        }
    )


def _kept_rows(
    corpus: Artifact, embeddings: Artifact, verdict: Artifact, shard: str
) -> Iterator[dict[str, Any]]:
    """One dict per kept sample of the shard, in key order; verifies that the three artifacts agree."""
    listed = read_table(corpus, shard, ["key", "status", "width", "height"]).to_pylist()
    judged = read_table(verdict, shard, ["key", "keep", "split", "weight"]).to_pylist()
    require_same_keys(shard, (r["key"] for r in listed), (v["key"] for v in judged), "verdict")
    fetched = [(r, v) for r, v in zip(listed, judged, strict=True) if r["status"] == "success"]
    described = read_metadata(embeddings, shard, ["key", "caption"]).to_pylist()
    require_same_keys(shard, (r["key"] for r, _ in fetched), (d["key"] for d in described), "embeddings")
    images = _tar_images(corpus.path / f"{shard}.tar")
    require_same_keys(shard, (d["key"] for d in described), images, "tar members")
    for row, ((size, judgement), sample) in enumerate(zip(fetched, described, strict=True)):
        if not judgement["keep"]:
            continue
        offset, size_bytes = images[sample["key"]]
        yield {
            "split": judgement["split"],
            "key": sample["key"],
            "row": row,
            "offset": offset,
            "size_bytes": size_bytes,
            "weight": judgement["weight"],
            "caption": sample["caption"],
            "tokens": [],
            "width": size["width"],
            "height": size["height"],
        }


def _tar_images(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and size in bytes of the image of each key, in file order.  Reads headers only."""
    images = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, _, extension = member.name.partition(".")
            if extension in IMAGE_EXTENSIONS:
                images[key] = (member.offset_data, member.size)
    return images
