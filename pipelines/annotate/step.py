"""Annotate: one decode per image for the encoder, every scorer and the duplicate finder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from infra.environment import environment_digest
from pipelines.aligned import ENCODER_FILE, metadata_file
from pipelines.annotate.apart import RunsApart
from pipelines.annotate.config import AnnotateConfig, AnnotateResources
from pipelines.encoders.registry import encoder_facts
from pipelines.step import Context, Estimate, Step

# Measured on two cores with the demo's encoder and scorers; only `plan` uses them.
ROWS_PER_SECOND = 30.0
BYTES_PER_ROW = 5_000


class Annotate(Step[AnnotateConfig, AnnotateResources]):
    """Writes embeddings, scores and fingerprints of every fetched sample.

    Layout: `pipelines.aligned`; the metadata has `key, caption, status, sha256, width, height, phash, dhash,
    thumbnail` (16 x 16 RGB) and a column per score.  An image that cannot be decoded has status
    `damaged_image`, an animation `animated_image` (its other frames would go unjudged); both have null scores
    and zero embeddings.
    """

    kind = "annotate"
    produces = "annotation"
    version = 2
    Config = AnnotateConfig
    Resources = AnnotateResources

    def identity(self, config: AnnotateConfig) -> dict[str, Any]:
        """Weights of the encoder, and version, weights and word lists of every scorer."""
        scorers = {}
        for name in config.scorers:
            scorer = config.load_scorer(name)
            scorers[name] = {"version": scorer.version, **scorer.identity()}
            if isinstance(scorer, RunsApart):
                scorers[name]["environment"] = environment_digest(scorer.environment)
        return {"encoder": encoder_facts(config.encoder, config.precision), "scorers": scorers}

    def check(self, config: AnnotateConfig) -> list[str]:
        from pipelines.annotate.check import scorer_problems

        try:
            encoder = encoder_facts(config.encoder, config.precision)
        except (ValueError, OSError) as error:
            return [*scorer_problems(config, None), str(error)]
        return scorer_problems(config, encoder)

    def estimate(self, config: AnnotateConfig, inputs: Mapping[str, Estimate]) -> Estimate:  # noqa: ARG002
        rows = inputs["corpus"].rows if "corpus" in inputs else 0
        return Estimate(rows=rows, disk_bytes=rows * BYTES_PER_ROW, seconds=rows / ROWS_PER_SECOND)

    def run(self, context: Context[AnnotateConfig, AnnotateResources]) -> dict[str, Any]:
        corpus, committed = context.inputs["corpus"], context.draft.committed()
        todo = [record for record in corpus.shards if record.name not in committed]
        total = corpus.rows.kept
        done = total - sum(record.rows.kept for record in todo)
        context.progress.start(total, unit="samples", done=done)
        if todo or not (context.draft.path / ENCODER_FILE).is_file():
            _annotate(context, todo)
        return _summary(context)


def _annotate(context: Context[AnnotateConfig, AnnotateResources], todo: list[Any]) -> None:
    from pipelines.annotate.flow import Annotators, annotate_shards

    config, draft = context.config, context.draft
    annotators = Annotators(config, context.resources)
    try:
        identity = annotators.identity()
        draft.write_bytes(ENCODER_FILE, (json.dumps(identity, indent=1, sort_keys=True) + "\n").encode())
        started, rows = time.monotonic(), 0
        corpus = context.inputs["corpus"].path
        for account in annotate_shards(annotators, corpus, todo, draft, config, context.resources):
            rows += account.total
            context.progress.advance(account.total)
        context.journal.metrics({"samples_per_second": rows / max(time.monotonic() - started, 1e-9)})
    finally:
        annotators.close()


def _summary(context: Context[AnnotateConfig, AnnotateResources]) -> dict[str, Any]:
    """Counts, and each score's largest value, from the column statistics of the committed shards."""
    records = context.draft.committed()
    summary: dict[str, Any] = {
        "samples": sum(record.rows.total for record in records.values()),
        "damaged": sum(record.rows.failed for record in records.values()),
        "shards": len(records),
    }
    largest: dict[str, float] = {}
    for name in sorted(records):
        table = pq.read_table(context.draft.path / metadata_file(name))
        for field in table.schema:
            if str(field.type) == "float":
                values = table[field.name].drop_null().to_numpy()
                if len(values):
                    largest[field.name] = max(largest.get(field.name, float("-inf")), float(values.max()))
    return summary | {f"max_{name}": round(value, 6) for name, value in sorted(largest.items())}
