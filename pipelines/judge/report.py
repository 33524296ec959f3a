"""The filter report: where every input row ended, what each rule met, and what was planted and missed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters.intervals import wilson
from filters.policy import SUCCESS, Policy
from infra.store import Artifact
from pipelines.judge.verdict import DUPLICATE

BINS = 20
EXAMPLES = 40
"""Most captions listed of any kind; counts are always complete."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What was planted in a demo corpus: category and half of each planted URL."""

    category: dict[str, str]
    half: dict[str, str]

    @staticmethod
    def read(site: Artifact) -> Truth:
        rows = pq.read_table(site.path / "truth.parquet", columns=["url", "category", "half"]).to_pylist()
        planted = [row for row in rows if row["category"]]
        return Truth(
            category={row["url"]: row["category"] for row in planted},
            half={row["url"]: row["half"] for row in planted},
        )


def build_report(rows: pa.Table, verdicts: pa.Table, policy: Policy, truth: Truth | None) -> dict[str, Any]:
    """All figures of the report as plain data."""
    keep = verdicts["keep"].to_numpy()
    reasons = verdicts["reason"].to_pylist()
    fetched = np.array([s == SUCCESS for s in rows["status"].to_pylist()])
    duplicates = np.array([r == DUPLICATE for r in verdicts["rule"].to_pylist()])
    report: dict[str, Any] = {
        "policy": {"name": policy.name, "version": policy.version, "owner": policy.owner},
        "funnel": {
            "input": len(rows),
            "fetched": int(fetched.sum()),
            "passed_policy": int((keep | duplicates).sum()),
            "kept": int(keep.sum()),
        },
        "ended": dict(Counter(reasons).most_common()),
        "splits": dict(sorted(Counter(s for s in verdicts["split"].to_pylist() if s).items())),
        "dropped_by_category": dict(
            sorted(
                Counter(
                    c for c, k in zip(verdicts["category"].to_pylist(), keep, strict=True) if c and not k
                ).items()
            )
        ),
        "rules": rule_table(rows, policy),
        "histograms": histograms(rows, policy, fetched),
    }
    if truth is not None:
        report["planted"] = planted_figures(rows, verdicts, truth)
    return report


def rule_table(rows: pa.Table, policy: Policy) -> list[dict[str, Any]]:
    """What each rule met; one that met nothing says so, because silence would read as safety."""
    keep = ["key", "status", *policy.score_names()]
    table = []
    for hit in policy.rule_hits(rows.select(keep)):
        row = hit._asdict()
        if hit.matched == 0:
            row["note"] = "met nothing in this corpus: its recall is not measured here"
        table.append(row)
    return table


def histograms(rows: pa.Table, policy: Policy, fetched: np.ndarray) -> dict[str, Any]:
    """Counts of each score the policy reads, in equal bins, with the thresholds laid on it."""
    thresholds: dict[str, list[float]] = {}
    for rule in policy.rules:
        for _, leaf in rule.when.leaves(""):
            bounds = [b for b in (leaf.above, leaf.below) if b is not None]
            thresholds.setdefault(str(leaf.score), []).extend(bounds)
    found = {}
    for name, bounds in sorted(thresholds.items()):
        values = rows[name].to_numpy()[fetched]
        values = values[~np.isnan(values)]
        counts, edges = np.histogram(values, bins=BINS)
        found[name] = {
            "counts": counts.tolist(),
            "low": float(edges[0]),
            "high": float(edges[-1]),
            "thresholds": sorted(set(bounds)),
        }
    return found


def planted_figures(rows: pa.Table, verdicts: pa.Table, truth: Truth) -> dict[str, Any]:
    """Recall on planted captions per half and category with Wilson's interval, what was missed, and what
    harmless captions went with them.

    A planted caption counts as caught only where a rule of the policy dropped it; one that fell to the
    duplicate finder or was never fetched is left out of the count.
    """
    caught: Counter[tuple[str, str]] = Counter()
    seen: Counter[tuple[str, str]] = Counter()
    missed: dict[str, list[dict[str, str]]] = {}
    benign, benign_dropped = 0, []
    columns = (rows["url"], rows["caption"], rows["status"], verdicts["rule"], verdicts["reason"])
    for url, caption, status, rule, reason in zip(*(c.to_pylist() for c in columns), strict=True):
        if status != SUCCESS or (rule == DUPLICATE and url in truth.category):
            continue
        dropped = reason.startswith(("drop: ", "review: ")) and rule != DUPLICATE
        if url not in truth.category:
            benign += 1
            if dropped:
                benign_dropped.append({"caption": caption, "rule": rule})
            continue
        half, category = truth.half[url], truth.category[url]
        for name in (category, "all"):
            seen[half, name] += 1
            caught[half, name] += dropped
        if not dropped:
            missed.setdefault(half, []).append({"caption": caption, "category": category})
    recall: dict[str, dict[str, Any]] = {}
    for (half, category), n in sorted(seen.items()):
        interval = wilson(caught[half, category], n)
        figures = {"n": n, "caught": caught[half, category], "recall": caught[half, category] / n}
        recall.setdefault(half, {})[category] = figures | {"low": interval.low, "high": interval.high}
    share = wilson(len(benign_dropped), benign) if benign else None
    return {
        "recall": recall,
        "missed": missed,
        "benign": {
            "n": benign,
            "dropped": len(benign_dropped),
            "share": len(benign_dropped) / benign if benign else 0.0,
            "high": share.high if share else None,
            "examples": benign_dropped[:EXAMPLES],
        },
    }


def render_html(report: dict[str, Any]) -> str:
    """The report as one HTML page without external assets."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html").render(report=report)
