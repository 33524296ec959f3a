"""Deduplicate: which samples show the same thing, and which copy is the best."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int
from pydantic import Field, field_validator

from filters.duplicates import (
    duplicate_clusters,
    exact_pairs,
    kept_copies,
    perceptual_pairs,
)
from filters.semantic_duplicates import Vectors, merged, pairs_within
from infra.shards import write_parquet
from infra.store import Rows
from pipelines.aligned import read_embeddings, read_metadata, shard_names
from pipelines.concepts import compile_ignored, concept_of
from pipelines.pair_cache import semantic_pairs
from pipelines.step import Context, Resources, Step, StepConfig, input_of

METHODS = ("exact", "perceptual", "same_caption", "semantic")
_COLUMNS = ["key", "caption", "status", "sha256", "width", "height", "phash", "dhash", "thumbnail"]
Pairs = Int[np.ndarray, "pairs 2"]


class Perceptual(StepConfig):
    """Limits of `filters.duplicates.perceptual_pairs`: bits of a hash, and grey levels of a thumbnail.

    Of the demo's resized and re-encoded copies none differs by more than 11 levels; look-alikes begin at 16.
    """

    max_bits: int = Field(default=6, ge=0, le=15)
    max_difference: int = Field(default=24, ge=0, le=255)


class SameCaption(StepConfig):
    """Captions of one concept and pictures that are at least alike: a variant, as in another skin tone."""

    min_cosine: float = Field(default=0.7, ge=-1, le=1)


class Semantic(StepConfig):
    """Pictures alike beyond doubt, whatever the captions.

    `clusters` > 1 compares within k-means clusters only, a thousand rows in each being a good size; the
    clusterings of all `seeds` are merged (five find nearly every pair: tests/benchmarks/deduplicate.py).
    Pairs above `stored_from` are kept in the store: `min_cosine` may move down to it without a comparison.
    """

    min_cosine: float = Field(default=0.985, ge=-1, le=1)
    stored_from: float = Field(default=0.95, ge=-1, le=1)
    clusters: int = Field(default=1, ge=1)
    seeds: tuple[int, ...] = (0,)


Clustering = Callable[[Semantic, int], tuple[Pairs, Float32[np.ndarray, " pairs"]]]


class DeduplicateConfig(StepConfig):
    """What makes two samples duplicates; null switches a method off.

    The cosines are of the annotation's image embeddings, so they belong to its encoder.
    `ignored_in_captions` are regular expressions for the words that make no other concept of a caption.
    """

    annotation: str = input_of("annotation")
    exact: bool = True
    perceptual: Perceptual | None = Perceptual()
    same_caption: SameCaption | None = SameCaption()
    semantic: Semantic | None = Semantic()
    ignored_in_captions: tuple[str, ...] = ()

    @field_validator("ignored_in_captions")
    @classmethod
    def _regular_expressions(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        compile_ignored(patterns)
        return patterns


class Deduplicate(Step[DeduplicateConfig, Resources]):
    """Writes for every fetched sample `key, cluster, rank, kept_copy, method, concept`.

    cluster: key of the cluster's first sample.  rank: 0 for the copy to keep, then the next best; a judge
    that drops the best copy for another reason keeps the next.  method: what first tied the sample to
    another. concept: key of the first sample of the same concept, clusters included; the unit of a split.
    Reads all metadata at once: some 1 KB of memory a sample.
    """

    kind = "deduplicate"
    produces = "clusters"
    version = 1
    Config = DeduplicateConfig

    def run(self, context: Context[DeduplicateConfig, Resources]) -> dict[str, Any]:
        annotation, config = context.inputs["annotation"], context.config
        shards = shard_names(annotation)
        tables = [read_metadata(annotation, shard, _COLUMNS) for shard in shards]
        samples = pa.concat_tables(tables)
        context.progress.start(len(samples), unit="samples")
        intact = np.flatnonzero(np.array(samples["status"]) == "success")
        vectors = Vectors.of(
            [read_embeddings(annotation, "img", shard) for shard in shards],
            [np.array(table["status"]) == "success" for table in tables],
        )
        found = find_pairs(
            samples.take(intact),
            vectors,
            config,
            lambda limit, seed: semantic_pairs(
                annotation,
                vectors,
                stored_from=min(limit.stored_from, limit.min_cosine),
                clusters=limit.clusters,
                seed=seed,
                work=context.draft.work,
            ),
        )
        # Rows that could not be decoded are compared with nothing.
        pairs = {method: intact[rows] for method, rows in found.items()}
        table = clusters_table(samples, pairs, config)
        start = 0
        for shard, part in zip(shards, tables, strict=True):
            temporary = context.draft.temporary(f"{shard}.parquet")
            write_parquet(temporary, table.slice(start, len(part)))
            account = Rows(total=len(part), kept=len(part))
            context.draft.commit_shard(shard, {f"{shard}.parquet": temporary}, account)
            context.progress.advance(len(part))
            start += len(part)
        return _summary(table)


def find_pairs(
    samples: pa.Table, vectors: Vectors, config: DeduplicateConfig, clustering: Clustering
) -> dict[str, Pairs]:
    """Pairs of row numbers by method, in the order of METHODS; a method switched off is absent.

    `clustering` finds the semantic pairs of one seed, with their cosines.
    """
    pairs: dict[str, Pairs] = {}
    if not len(samples):
        return pairs
    if config.exact:
        pairs["exact"] = exact_pairs(samples["sha256"].to_pylist())
    if config.perceptual:
        hashes = np.stack([samples["phash"].to_numpy(), samples["dhash"].to_numpy()], axis=1)
        thumbnails = np.stack([np.frombuffer(t, np.uint8) for t in samples["thumbnail"].to_pylist()])
        limits = config.perceptual
        pairs["perceptual"] = perceptual_pairs(hashes, thumbnails, limits.max_bits, limits.max_difference)
    if config.same_caption:
        concepts = _concepts(samples, config)
        pairs["same_caption"] = _similar_within(concepts, vectors, config.same_caption.min_cosine)
    if config.semantic:
        limit = config.semantic
        parts = [clustering(limit, seed) for seed in limit.seeds]
        rows, cosines = merged(parts)
        pairs["semantic"] = rows[cosines > limit.min_cosine]
    return pairs


def clusters_table(samples: pa.Table, pairs: dict[str, Pairs], config: DeduplicateConfig) -> pa.Table:
    """The step's columns for all samples, in their order."""
    count, keys = len(samples), np.array(samples["key"].to_pylist(), dtype=str)
    every = np.concatenate([np.zeros((0, 2), np.int64), *pairs.values()])
    clusters = duplicate_clusters(every, count)
    areas = samples["width"].to_numpy().astype(np.int64) * samples["height"].to_numpy()
    methods = np.full(count, "", dtype=object)
    for method in reversed(METHODS):
        methods[np.unique(pairs.get(method, np.zeros((0, 2), np.int64)))] = method
    same_words = list(_adjacent(_groups(_concepts(samples, config))))
    concepts = duplicate_clusters(np.concatenate([every, np.array(same_words).reshape(-1, 2)]), count)
    return pa.table(
        {
            "key": keys,
            "cluster": keys[clusters],
            "rank": pa.array(_ranks(clusters, areas, keys), pa.int32()),
            "kept_copy": kept_copies(clusters, areas, keys.tolist()),
            "method": pa.array(methods, pa.string()),
            "concept": keys[concepts],
        }
    )


def _concepts(samples: pa.Table, config: DeduplicateConfig) -> list[str]:
    ignored = compile_ignored(config.ignored_in_captions)
    return [concept_of(caption, ignored) for caption in samples["caption"].to_pylist()]


def _groups(concepts: Sequence[str]) -> Iterator[list[int]]:
    """Rows of each concept that more than one row has; rows without a word have no concept."""
    rows: dict[str, list[int]] = {}
    for row, concept in enumerate(concepts):
        if concept:
            rows.setdefault(concept, []).append(row)
    yield from (group for group in rows.values() if len(group) > 1)


def _adjacent(groups: Iterator[list[int]]) -> Iterator[tuple[int, int]]:
    for group in groups:
        yield from itertools.pairwise(group)


def _similar_within(concepts: Sequence[str], vectors: Vectors, min_cosine: float) -> Pairs:
    found = [np.zeros((0, 2), np.int64)]
    for group in _groups(concepts):
        rows = np.array(group)
        found += [rows[pairs] for pairs, _ in pairs_within(vectors.take(rows), min_cosine)]
    return np.concatenate(found)


def _ranks(
    clusters: Int[np.ndarray, " n"], areas: Int[np.ndarray, " n"], keys: np.ndarray
) -> Int[np.ndarray, " n"]:
    """Place of each row in its cluster: largest image first, then smallest key, as `kept_copies`."""
    order = np.lexsort((keys, -areas, clusters))
    first: Bool[np.ndarray, " n"] = np.r_[True, np.diff(clusters[order]) != 0][: len(order)]
    positions = np.arange(len(order))
    ranks = np.zeros(len(order), np.int64)
    ranks[order] = positions - np.maximum.accumulate(np.where(first, positions, 0))
    return ranks


def _summary(table: pa.Table) -> dict[str, Any]:
    sizes = np.unique(np.array(table["cluster"]), return_counts=True)[1]
    copies = np.array(table["rank"]) > 0
    methods = np.array(table["method"])
    return {
        "samples": len(table),
        "clusters": len(sizes),
        "concepts": len(set(table["concept"].to_pylist())),
        "largest_cluster": int(sizes.max(initial=0)),
        "duplicates": int(copies.sum()),
        **{f"duplicates_{method}": int((copies & (methods == method)).sum()) for method in METHODS},
    }
