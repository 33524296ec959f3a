"""Deduplicate: which samples show the same picture, and which copy of each stays."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from filters.duplicates import (
    duplicate_clusters,
    exact_pairs,
    kept_copies,
    perceptual_pairs,
    semantic_pairs,
)
from filters.policy import SUCCESS
from infra.shards import write_parquet
from infra.store import Artifact, Rows
from pipelines.aligned import read_embeddings, read_metadata, shard_names
from pipelines.step import Context, Resources, Step, StepConfig, input_of

METHODS = ("exact", "perceptual", "semantic")
COLUMNS = ["key", "status", "sha256", "width", "height", "phash", "dhash", "thumbnail"]


class DeduplicateConfig(StepConfig):
    """How alike two samples must be.  Hashes and embeddings are stored, so a moved threshold recomputes none."""

    annotation: str = input_of("annotation")
    max_bits: int = Field(6, ge=0, le=15, description="bits of 64 in which perceptual hashes may differ")
    max_difference: int = Field(48, ge=0, le=255, description="of 255, between two 16 x 16 thumbnails")
    min_cosine: float | None = Field(0.97, gt=0, le=1, description="of image embeddings; none leaves it out")
    clusters: int = Field(1, ge=1, description="k-means clusters that pairs are sought in; 1 compares all")
    seed: int = 0


class Deduplicate(Step[DeduplicateConfig, Resources]):
    """Writes `<shard>.parquet` with `key, cluster, kept_copy, method`, one row per fetched sample.

    `cluster` is the key of its first member, stable under any order of work; `method` names the finders that
    linked the row to another, `+` between them, empty for a row alone.  Damaged images are alone.
    """

    kind = "deduplicate"
    produces = "clusters"
    version = 1
    Config = DeduplicateConfig

    def run(self, context: Context[DeduplicateConfig, Resources]) -> dict[str, Any]:
        config, annotation = context.config, context.inputs["annotation"]
        names = shard_names(annotation)
        tables = [read_metadata(annotation, name, COLUMNS) for name in names]
        table = pa.concat_tables(tables)
        intact = np.flatnonzero([s == SUCCESS for s in table["status"].to_pylist()])
        context.progress.start(len(table))
        pairs = find_pairs(table, embeddings_of(annotation, names), intact, config)
        everything = np.concatenate(list(pairs.values()))
        labels = duplicate_clusters(everything, len(table))
        areas = table["width"].to_numpy().astype(np.int64) * table["height"].to_numpy().astype(np.int64)
        keys = table["key"].to_pylist()
        kept = kept_copies(labels, areas, keys)
        found = pa.table(
            {
                "key": keys,
                "cluster": [keys[label] for label in labels],
                "kept_copy": kept,
                "method": linked_by(pairs, len(table)),
            }
        )
        start = 0
        for name, part in zip(names, tables, strict=True):
            temporary = context.draft.temporary(f"{name}.parquet")
            write_parquet(temporary, found.slice(start, len(part)))
            rows = Rows(total=len(part), kept=len(part))
            context.draft.commit_shard(name, {f"{name}.parquet": temporary}, rows)
            start += len(part)
            context.progress.advance(len(part))
        sizes = Counter(Counter(labels.tolist()).values())
        return {
            "samples": len(table),
            "clusters_of_several": sum(count for size, count in sizes.items() if size > 1),
            "largest_cluster": max(sizes, default=0),
            "surplus_copies": int((~kept).sum()),
            **{f"pairs_{name}": len(found) for name, found in pairs.items()},
        }


def embeddings_of(annotation: Artifact, names: list[str]) -> np.ndarray:
    """Image embeddings of all shards, float16 as stored; shape (samples, d)."""
    return np.concatenate([np.asarray(read_embeddings(annotation, "img", name)) for name in names])


def find_pairs(
    table: pa.Table, embeddings: np.ndarray, intact: np.ndarray, config: DeduplicateConfig
) -> dict[str, np.ndarray]:
    """Pairs of row numbers per method, among the intact rows."""
    rows = table.take(pa.array(intact))
    hashes = np.stack([rows[name].to_numpy().astype(np.uint64) for name in ("phash", "dhash")], axis=1)
    joined = b"".join(rows["thumbnail"].to_pylist())
    thumbnails = np.frombuffer(joined, np.uint8).reshape(len(rows), -1)
    found = {
        "exact": exact_pairs(rows["sha256"].to_pylist()),
        "perceptual": perceptual_pairs(hashes, thumbnails, config.max_bits, config.max_difference),
        "semantic": np.zeros((0, 2), np.int64),
    }
    if config.min_cosine is not None:
        found["semantic"] = semantic_pairs(
            embeddings[intact].astype(np.float32), config.min_cosine, config.clusters, config.seed
        )
    return {name: intact[pairs].reshape(-1, 2) for name, pairs in found.items()}


def linked_by(pairs: dict[str, np.ndarray], count: int) -> list[str]:
    """For each row the methods that found it in a pair."""
    touched = {name: np.zeros(count, bool) for name in METHODS}
    for name, found in pairs.items():
        touched[name][found.ravel()] = True
    return ["+".join(name for name in METHODS if touched[name][row]) for row in range(count)]
