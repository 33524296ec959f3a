"""The labelling queue: which samples of an annotation people should look at next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from filters.active_learning import at_random, disagreement, most_uncertain, near_misses, queue
from filters.calibration import Side, flagged
from filters.labels import Label
from infra.store import Artifact, Store
from pipelines.aligned import read_table
from pipelines.scores import ScoredSamples, worse_end

Strategy = Literal["uncertain", "disagreement", "near-misses", "random"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a queue is made for: samples of `category`, which `scores` are to find on `side` of `threshold`.

    `uncertain` and `near-misses` go by the first score and need the threshold; `disagreement` compares ranks
    in all scores, each from its better end to the one its scorer declares worse.
    """

    category: str
    strategies: Sequence[Strategy]
    scores: Sequence[str]
    threshold: float | None = None
    side: Side = "above"
    size: int = 100
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One sample to label, and the strategy that chose it."""

    key: str
    sha256: str
    caption: str
    scores: dict[str, float]
    chosen_by: Strategy


def build_queue(samples: ScoredSamples, labels: Sequence[Label], asked: Asked) -> list[Candidate]:
    """The samples to label, one of each cluster of duplicates, without those that `labels` of the category
    cover.

    Raises ValueError where a strategy lacks what it goes by; the message says what.
    """
    mine = [label for label in labels if label.category == asked.category]
    keys, groups = samples.keys, duplicate_groups(samples)
    row_of = {key: row for row, key in enumerate(keys)}
    done = {groups[row_of[label.key]] for label in mine if label.key in row_of}
    orders = [_order(strategy, samples, mine, asked) for strategy in asked.strategies]
    columns = {name: samples.score(name) for name in asked.scores}
    captions, images = samples.table["caption"].to_pylist(), samples.images
    return [
        Candidate(
            key=keys[row],
            sha256=images[keys[row]],
            caption=captions[row] or "",
            scores={name: round(float(column[row]), 4) for name, column in columns.items()},
            chosen_by=asked.strategies[order],
        )
        for row, order in queue(orders, groups, size=asked.size, done=done)
    ]


def duplicate_groups(samples: ScoredSamples) -> list[str]:
    """For each sample its cluster of duplicates, where they were looked for; otherwise its image's sha256."""
    found = list(_clusters_of(samples.annotation))
    if not found:
        return [str(digest) for digest in samples.table["sha256"].to_pylist()]
    newest = max(found, key=lambda artifact: (float(artifact.host["finished_at"]), artifact.address))
    groups: list[str] = []
    for shard, rows in zip(samples.shards, samples.rows, strict=True):
        clusters = np.array(read_table(newest, shard, ["cluster"])["cluster"].to_pylist(), dtype=object)
        groups += [str(cluster) for cluster in clusters[rows]]
    return groups


def _clusters_of(annotation: Artifact) -> Iterator[Artifact]:
    for artifact in Store(annotation.path.parents[2]).artifacts():
        source = artifact.manifest["inputs"].get("annotation")
        if artifact.kind == "clusters" and source and source["content"] == annotation.content:
            yield artifact


def _order(
    strategy: Strategy, samples: ScoredSamples, labels: Sequence[Label], asked: Asked
) -> Int[np.ndarray, " n"]:
    if strategy == "random":
        return at_random(len(samples.keys), asked.seed)
    if strategy == "disagreement":
        return disagreement([_worse_when_high(samples, name) for name in asked.scores])
    if asked.threshold is None or not asked.scores:
        raise ValueError(f"strategy {strategy!r} needs a score and its threshold")
    scores = samples.score(asked.scores[0])
    if strategy == "uncertain":
        return most_uncertain(scores, asked.threshold)
    caught = flagged(scores, asked.threshold, asked.side)
    row_of = {key: row for row, key in enumerate(samples.keys)}
    positives = [row_of[label.key] for label in labels if label.positive and label.key in row_of]
    misses = np.array([row for row in positives if not caught[row]], np.int64)
    return near_misses(samples.image_embeddings(), misses)


def _worse_when_high(samples: ScoredSamples, score: str) -> Float[np.ndarray, " n"]:
    """The score, turned where low is worse; one that nobody declares counts as worse when high."""
    worse = worse_end(samples.annotation, score)
    if worse == "neither":
        raise ValueError(f"'disagreement': neither end of {score!r} is worse; leave it out")
    return -samples.score(score) if worse == "low" else samples.score(score)
