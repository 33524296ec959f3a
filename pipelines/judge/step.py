"""Judge: stored scores and a policy file become verdicts, with a reason for every row that is not kept."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator

from filters.policy import Policy, PolicyError
from filters.split import SPLITS
from infra.shards import write_parquet
from infra.store import Draft, Rows
from pipelines.judge.report import Truth, build_report, render_html
from pipelines.judge.verdict import judge, judged_rows
from pipelines.step import Context, Resources, Step, StepConfig, input_of, package_file


class JudgeConfig(StepConfig):
    """Which policy decides, and how kept samples are split."""

    corpus: str = input_of("corpus")
    annotation: str = input_of("annotation")
    clusters: str = input_of("clusters")
    truth: str | None = input_of("urls", optional=True)
    policy: str = Field(
        "filters/policies/demo.yaml", description="policy file; its content enters the digest"
    )
    split: dict[str, float] = Field({"train": 0.8, "validation": 0.05, "test": 0.15})
    seed: int = 0
    keep_duplicates: bool = False

    @field_validator("split")
    @classmethod
    def _names_all_splits(cls, split: dict[str, float]) -> dict[str, float]:
        if sorted(split) != sorted(SPLITS) or abs(sum(split.values()) - 1) > 1e-9 or min(split.values()) < 0:
            raise ValueError(f"expected shares >= 0 of {', '.join(SPLITS)} that sum to 1, got {split}")
        return split


class Judge(Step[JudgeConfig, Resources]):
    """One verdict per input row: kept with a split and a weight, or not kept with a reason and a rule.

    Writes `<shard>.parquet` with `key, keep, reason, rule, category, score, weight, split`, and the filter
    report as `report.json` and `report.html`.  Scores are read, never computed.
    """

    kind = "judge"
    produces = "verdict"
    version = 1
    Config = JudgeConfig

    def identity(self, config: JudgeConfig) -> dict[str, Any]:
        return {"policy": Policy.from_file(package_file(config.policy)).to_dict()}

    def check(self, config: JudgeConfig) -> list[str]:
        try:
            Policy.from_file(package_file(config.policy))
        except (FileNotFoundError, PolicyError) as error:
            return [str(error)]
        return []

    def run(self, context: Context[JudgeConfig, Resources]) -> dict[str, Any]:
        """Raises PolicyError for a score nobody computed, MisalignedError for artifacts of another corpus."""
        config, inputs = context.config, context.inputs
        policy = Policy.from_file(package_file(config.policy))
        rows = judged_rows(inputs["corpus"], inputs["annotation"], inputs["clusters"])
        context.progress.start(len(rows))
        verdicts = judge(
            rows, policy, split=config.split, seed=config.seed, keep_duplicates=config.keep_duplicates
        )
        for name in sorted(set(rows["shard"].to_pylist())):
            part = verdicts.filter(pa.compute.equal(rows["shard"], name))
            commit(context.draft, name, part)
            context.progress.advance(len(part))
        truth = Truth.read(inputs["truth"]) if "truth" in inputs else None
        report = build_report(rows, verdicts, policy, truth)
        context.draft.write_bytes("report.json", json.dumps(report, indent=1, sort_keys=True).encode())
        context.draft.write_bytes("report.html", render_html(report).encode())
        for name in ("report.json", "report.html"):
            context.journal.artifact(context.draft.path / name, "filter_report")
        return summary_of(report)


def commit(draft: Draft, shard: str, verdicts: pa.Table) -> None:
    """Commit one shard's verdicts with their row account."""
    temporary = draft.temporary(f"{shard}.parquet")
    write_parquet(temporary, verdicts)
    rows = verdicts.select(["keep", "reason"]).to_pylist()
    lost = [row["reason"] for row in rows if not row["keep"]]
    failed = sum(reason.startswith("failed: ") for reason in lost)
    account = Rows(
        total=len(rows),
        kept=len(rows) - len(lost),
        dropped=len(lost) - failed,
        failed=failed,
        reasons=dict(sorted(Counter(lost).items())),
    )
    draft.commit_shard(shard, {f"{shard}.parquet": temporary}, account)


def summary_of(report: dict[str, Any]) -> dict[str, Any]:
    """The report's headline figures, flat."""
    figures = {f"rows_{name}": count for name, count in report["funnel"].items()}
    figures |= {f"split_{name}": count for name, count in report["splits"].items()}
    figures |= {f"dropped_{name}": count for name, count in report["dropped_by_category"].items()}
    planted = report.get("planted")
    if planted:
        for half, per_category in planted["recall"].items():
            figures[f"planted_recall_{half}"] = per_category["all"]["recall"]
        figures["benign_dropped_share"] = planted["benign"]["share"]
    return figures
