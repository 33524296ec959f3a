"""Export: what a verdict keeps as WebDataset shards of their own, and what it does not, with the reasons."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from pipelines.step import Context, Estimate, Resources, Step, StepConfig, input_of

REPORTS = ("report.json", "report.html")


class ExportConfig(StepConfig):
    """`rejected`: write the samples that are not kept too; otherwise they are named by key alone."""

    corpus: str = input_of("corpus")
    verdict: str = input_of("verdict")
    rejected: bool = False


class ExportResources(Resources):
    """Reading and writing are what takes time: more shards at a time help where the disks do."""

    shards_in_flight: int = Field(default=4, ge=1)
    cpus_per_shard: float = Field(default=0.5, gt=0)


class Export(Step[ExportConfig, ExportResources]):
    """Writes each shard of the corpus anew with the samples that the verdict keeps, members as they are.

    `00000.tar` and `00000.parquet` hold the kept samples: the corpus's columns and the verdict's, as
    `verdict_reason, verdict_score, ...`.  `rejected/00000.parquet` has a row for every other input row, so
    that both together are the input; `rejected/00000.tar` is there with `rejected` alone.  What is forgotten
    is named by key in either case.  The verdict's report lies beside them.
    """

    kind = "export"
    produces = "filtered"
    version = 1
    Config = ExportConfig
    Resources = ExportResources

    def estimate(self, config: ExportConfig, inputs: Mapping[str, Estimate]) -> Estimate:  # noqa: ARG002
        corpus = inputs.get("corpus", Estimate())
        return Estimate(rows=corpus.rows, disk_bytes=corpus.disk_bytes)

    def run(self, context: Context[ExportConfig, ExportResources]) -> dict[str, Any]:
        from pipelines.aligned import require_same_shards
        from pipelines.distribute import for_each
        from pipelines.export.shard import ExportJob, export_shard
        from pipelines.forget.rows import refuse_forgotten

        corpus, verdict, draft = context.inputs["corpus"], context.inputs["verdict"], context.draft
        refuse_forgotten(verdict)
        shards, committed = require_same_shards(corpus, verdict), draft.committed()
        context.progress.start(len(shards), unit="shards", done=len(committed))
        jobs = (
            ExportJob(
                draft=draft, corpus=corpus, verdict=verdict, shard=shard, rejected=context.config.rejected
            )
            for shard in shards
            if shard not in committed
        )
        resources = context.resources
        for _ in for_each(
            export_shard, jobs, in_flight=resources.shards_in_flight, num_cpus=resources.cpus_per_shard
        ):
            context.progress.advance()
        for name in REPORTS:
            temporary = draft.temporary(name)
            shutil.copyfile(verdict.path / name, temporary)
            draft.commit_file(name, temporary)
        rows = verdict.rows
        return {"kept": rows.kept, "rejected": rows.total - rows.kept, "shards": len(shards)}
