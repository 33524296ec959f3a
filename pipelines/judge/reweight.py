"""Reweighting what a policy kept so that it looks like what was there before; off unless asked for."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool
from pydantic import Field

from filters.reweighting import clipped_weights, density_ratio, effective_samples
from filters.semantic_duplicates import Vectors
from infra.store import Artifact
from pipelines.aligned import read_embeddings
from pipelines.judge.verdict import Judged, reached_policy
from pipelines.step import StepConfig


class Reweight(StepConfig):
    """Settings of the classifier that tells all samples from the kept ones, and of the weights made from it.

    `clip`: weights lie within 1/clip and clip before they are scaled to mean 1.  `regularisation`: L2
    strength; more pulls all weights towards 1.  `fit_rows`: at most so many rows enter a fit.
    """

    clip: float = Field(default=5.0, gt=1)
    regularisation: float = Field(default=1.0, gt=0)
    fit_rows: int = Field(default=50_000, ge=100)
    seed: int = 0


def reweight(judged: Judged, annotation: Artifact, config: Reweight) -> tuple[Judged, dict[str, Any]]:
    """The verdict with density weights multiplied into its `weight` column, and what the report says of them.

    Embeddings stay on disk, but for those of a fit and of the rows that are weighed at once.
    """
    from threadpoolctl import threadpool_limits

    whole = _one_of_each(judged)
    kept = np.array(judged.verdict["keep"])
    embeddings = _embeddings(judged, annotation, whole)
    with threadpool_limits(limits=1):  # sums in one order, whatever the machine's cores
        found = density_ratio(
            embeddings,
            kept[whole],
            regularisation=config.regularisation,
            fit_rows=config.fit_rows,
            seed=config.seed,
        )
    ratio = found.ratio[kept[whole]]
    density = clipped_weights(ratio, config.clip)
    weight = np.array(judged.verdict["weight"], dtype=np.float64)
    weight[kept] *= density
    column = judged.verdict.schema.get_field_index("weight")
    verdict = judged.verdict.set_column(
        column, judged.verdict.schema.field(column), pa.array(weight, pa.float32())
    )
    return replace(judged, verdict=verdict), {
        "samples_before": int(whole.sum()),
        "samples_kept": len(density),
        "classifier_auc": round(found.auc, 4),
        "smallest": round(float(density.min(initial=1.0)), 4),
        "largest": round(float(density.max(initial=1.0)), 4),
        "clipped": int(((ratio < 1 / config.clip) | (ratio > config.clip)).sum()),
        "effective_samples": round(effective_samples(density), 1),
    }


def _one_of_each(judged: Judged) -> Bool[np.ndarray, " n"]:
    """The unfiltered set: all kept rows, and of each cluster that has none its best copy.

    Copies that deduplication dropped stay out: weights are to undo what the rules shifted, not to bring
    copies back.
    """
    keep, seen = np.array(judged.verdict["keep"]), reached_policy(judged.verdict)
    clusters, ranks = judged.groups["cluster"].to_pylist(), judged.groups["rank"].to_pylist()
    chosen = keep.copy()
    with_kept = {clusters[row] for row in np.flatnonzero(keep)}
    best: dict[str, int] = {}
    for row in np.flatnonzero(seen & ~keep).tolist():
        cluster = clusters[row]
        if cluster not in with_kept and (cluster not in best or ranks[row] < ranks[best[cluster]]):
            best[cluster] = row
    chosen[list(best.values())] = True
    return chosen


def _embeddings(judged: Judged, annotation: Artifact, rows: Bool[np.ndarray, " n"]) -> Vectors:
    """Image embeddings of the chosen rows, in corpus order; annotation has them for fetched rows alone."""
    fetched = np.array(judged.groups["cluster"].is_valid())
    starts = [*judged.starts.values(), len(rows)]
    return Vectors.of(
        [read_embeddings(annotation, "img", shard) for shard in judged.starts],
        [rows[start:end][fetched[start:end]] for start, end in itertools.pairwise(starts)],
    )
