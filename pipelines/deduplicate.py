"""Deduplicate: which samples show the same thing, and which copy is the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int, Int8
from pydantic import Field, field_validator

from filters.duplicates import (
    copy_ranks,
    duplicate_clusters,
    exact_pairs,
    perceptual_pairs,
    spanning_pairs,
)
from filters.semantic_duplicates import Vectors, brute_force_pairs, merged, pairs_within, recall
from infra.shards import write_parquet
from infra.store import Rows
from pipelines.aligned import read_embeddings, read_metadata, shard_names
from pipelines.concepts import compile_ignored
from pipelines.fingerprints import COLUMNS, Fingerprints, same_concept
from pipelines.pair_cache import semantic_pairs
from pipelines.step import Context, Resources, Step, StepConfig, input_of

METHODS = ("exact", "perceptual", "same_caption", "semantic")
Pairs = Int[np.ndarray, "pairs 2"]
COMPARE_ALL = 50_000
"""Up to so many images every pair is compared: minutes on two cores, and the time grows with the square."""
ROWS_PER_CLUSTER = 1_000
SEEDS = 5
RECALL_SAMPLE = 200
"""Images for which the pairs that clusters found are held against all there are."""


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

    `clusters` > 1 compares within k-means clusters only; the clusterings of all `seeds` are merged (five find
    nearly every pair: tests/benchmarks/deduplicate.py), and the summary has the recall on a sample.  null
    stands for one cluster up to 50,000 images and a thousand images in each above, and for five seeds where
    there are several clusters.
    Pairs above `stored_from` are kept in the store: `min_cosine` may move down to it without a comparison.
    """

    min_cosine: float = Field(default=0.985, ge=-1, le=1)
    stored_from: float = Field(default=0.95, ge=-1, le=1)
    clusters: int | None = Field(default=None, ge=1)
    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)

    def clusters_of(self, images: int) -> int:
        """In how many clusters so many images are compared."""
        return self.clusters or (1 if images <= COMPARE_ALL else images // ROWS_PER_CLUSTER)

    def seeds_of(self, images: int) -> tuple[int, ...]:
        """The seeds of the clusterings of so many images."""
        return self.seeds or tuple(range(SEEDS if self.clusters_of(images) > 1 else 1))


Clustering = Callable[[Vectors, Semantic, int], tuple[Pairs, Float32[np.ndarray, " pairs"]]]


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
    In memory: some 300 bytes a sample and the pairs; thumbnails and embeddings stay on disk.
    """

    kind = "deduplicate"
    produces = "clusters"
    version = 1
    Config = DeduplicateConfig

    def run(self, context: Context[DeduplicateConfig, Resources]) -> dict[str, Any]:
        annotation, config = context.inputs["annotation"], context.config
        shards, work = shard_names(annotation), context.draft.work
        samples = Fingerprints.read(
            (read_metadata(annotation, shard, COLUMNS) for shard in shards), work, config.ignored_in_captions
        )
        context.progress.start(len(samples.keys), unit="samples")
        borders = np.cumsum(samples.lengths)[:-1]
        vectors = Vectors.of(
            [read_embeddings(annotation, "img", shard) for shard in shards],
            np.split(samples.intact, borders),
        )
        found = find_pairs(
            samples,
            vectors,
            config,
            lambda images, limit, seed: semantic_pairs(
                annotation,
                images,
                stored_from=min(limit.stored_from, limit.min_cosine),
                clusters=limit.clusters_of(len(images)),
                seed=seed,
                work=work,
            ),
        )
        clusters = Clusters.of(samples, found)
        for shard, rows in zip(shards, np.split(np.arange(len(samples.keys)), borders), strict=True):
            temporary = context.draft.temporary(f"{shard}.parquet")
            write_parquet(temporary, clusters.table(rows))
            account = Rows(total=len(rows), kept=len(rows))
            context.draft.commit_shard(shard, {f"{shard}.parquet": temporary}, account)
            context.progress.advance(len(rows))
        return clusters.summary() | semantic_recall(samples, vectors, config.semantic, found)


def find_pairs(
    samples: Fingerprints, vectors: Vectors, config: DeduplicateConfig, clustering: Clustering
) -> dict[str, Pairs]:
    """Pairs of row numbers by method, in the order of METHODS; a method switched off is absent.

    `vectors` are those of the intact samples; others are compared with nothing.  `clustering` finds the
    semantic pairs of one seed, with their cosines.  Copies of one file are not compared
    with each other, nor again with others: each is paired with the first.
    """
    pairs: dict[str, Pairs] = {}
    intact = np.flatnonzero(samples.intact)
    if not len(intact):
        return pairs
    if config.exact:
        pairs["exact"] = intact[exact_pairs(samples.sha256)]
    if limits := config.perceptual:
        near = perceptual_pairs(samples.hashes, samples.thumbnails, limits.max_bits, limits.max_difference)
        pairs["perceptual"] = intact[near]
    if config.same_caption:
        groups = same_concept(samples.concepts[intact])
        alike = _similar_within(groups, samples.sha256, vectors, config.same_caption.min_cosine)
        pairs["same_caption"] = intact[alike]
    if limit := config.semantic:
        firsts, copies = _first_copies(samples.sha256)
        images = vectors.only(firsts)
        rows, cosines = merged([clustering(images, limit, seed) for seed in limit.seeds_of(len(images))])
        near = firsts[rows[cosines > limit.min_cosine]]
        pairs["semantic"] = intact[np.concatenate([copies, near])]
    return pairs


def semantic_recall(
    samples: Fingerprints, vectors: Vectors, limit: Semantic | None, found: dict[str, Pairs]
) -> dict[str, int]:
    """Where only clusters were compared: the pairs there are of some images, and those that were found."""
    firsts, _ = _first_copies(samples.sha256)
    if limit is None or limit.clusters_of(len(firsts)) < 2:
        return {}
    sample = np.random.default_rng(0).choice(len(firsts), min(len(firsts), RECALL_SAMPLE), replace=False)
    intact = np.flatnonzero(samples.intact)
    true = intact[firsts[brute_force_pairs(vectors.only(firsts), sample, limit.min_cosine)]]
    hits, count = recall(found["semantic"], true)
    return {
        "semantic_clusters": limit.clusters_of(len(firsts)),
        "semantic_sampled": len(sample),
        "semantic_sampled_pairs": count,
        "semantic_sampled_pairs_found": hits,
    }


def _first_copies(sha256: np.ndarray) -> tuple[Int[np.ndarray, " files"], Pairs]:
    """The rows that hold the first copy of a file, and the pairs of each other copy with its first."""
    copies = exact_pairs(sha256)
    return np.delete(np.arange(len(sha256)), copies[:, 1]), copies


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """Of each sample: first row of its cluster, rank there, what tied it, and first row of its concept."""

    keys: pa.Array
    cluster: Int[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]
    method: Int8[np.ndarray, " n"]
    """Position in METHODS; -1 for none."""
    concept: Int[np.ndarray, " n"]

    @staticmethod
    def of(samples: Fingerprints, pairs: dict[str, Pairs]) -> Clusters:
        """The clusters that `pairs` of all finders connect."""
        count = len(samples.keys)
        every = np.concatenate([np.zeros((0, 2), np.int64), *pairs.values()])
        cluster = duplicate_clusters(every, count)
        method = np.full(count, -1, np.int8)
        for code, name in reversed(list(enumerate(METHODS))):
            method[pairs.get(name, np.zeros((0, 2), np.int64))] = code
        same_words = [np.stack([rows[:-1], rows[1:]], axis=1) for rows in same_concept(samples.concepts)]
        return Clusters(
            keys=samples.keys,
            cluster=cluster,
            rank=copy_ranks(cluster, samples.areas, samples.key_places()),
            method=method,
            concept=duplicate_clusters(np.concatenate([every, *same_words]), count),
        )

    def table(self, rows: Int[np.ndarray, " rows"]) -> pa.Table:
        """The step's columns of some samples."""

        def keys(of: Int[np.ndarray, " rows"]) -> pa.Array:
            return self.keys.take(pa.array(of)).cast(pa.string())

        return pa.table(
            {
                "key": keys(rows),
                "cluster": keys(self.cluster[rows]),
                "rank": pa.array(self.rank[rows], pa.int32()),
                "kept_copy": self.rank[rows] == 0,
                "method": pa.array(["", *METHODS]).take(pa.array(self.method[rows] + 1)),
                "concept": keys(self.concept[rows]),
            }
        )

    def summary(self) -> dict[str, Any]:
        """Counts of the whole."""
        sizes = np.bincount(self.cluster)
        copies = self.rank > 0
        return {
            "samples": len(self.keys),
            "clusters": int((sizes > 0).sum()),
            "concepts": len(np.unique(self.concept)),
            "largest_cluster": int(sizes.max(initial=0)),
            "duplicates": int(copies.sum()),
            **{
                f"duplicates_{name}": int((copies & (self.method == code)).sum())
                for code, name in enumerate(METHODS)
            },
        }


def _similar_within(
    groups: Sequence[Int[np.ndarray, " rows"]], sha256: np.ndarray, vectors: Vectors, min_cosine: float
) -> Pairs:
    """Pairs that connect the alike rows of each group; a group's copies of one file are compared once."""
    found = [np.zeros((0, 2), np.int64)]
    for rows in groups:
        firsts, copies = _first_copies(sha256[rows])
        near = np.zeros((0, 2), np.int64)
        for pairs, _ in pairs_within(vectors.part(rows[firsts]), min_cosine):
            near = spanning_pairs(np.concatenate([near, pairs]), len(firsts))
        found += [rows[copies], rows[firsts[near]]]
    return np.concatenate(found)
