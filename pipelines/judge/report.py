"""The numbers of the filter report, as plain data: where rows ended, what each rule met, what was missed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters.intervals import wilson
from filters.policy import Policy
from filters.terms import Terms
from infra.digests import digest_of
from infra.store import Artifact
from pipelines.forget.rows import FORGOTTEN
from pipelines.judge.bias import term_table
from pipelines.judge.examples import examples as examples_of
from pipelines.judge.together import by_category, clusters, overlap
from pipelines.judge.verdict import ACQUIRE, ANNOTATE, DUPLICATE, Judged, account, reached_policy

BINS = 30
LISTED = 200
"""Longest list of captions in a report; the counts beside it are always of all."""
TRUTH_FILE = "truth.parquet"


def make_report(
    judged: Judged,
    policy: Policy,
    terms: Terms,
    *,
    truth: Artifact | None = None,
    notes: Sequence[str] = (),
    examples: int = 0,
    reweighting: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The report; JSON-able and deterministic.

    `truth` adds recall on planted captions and benign losses.  `examples` samples stand for each reason.
    `reweighting` is what `reweight` says of the weights it put into the verdict.
    """
    verdict = judged.verdict
    matches = policy.matches(judged.scores.drop_columns(["url", "caption"]))
    report: dict[str, Any] = {
        # With the digest, verdicts of different policies differ in content even where no row does.
        "policy": {
            "name": policy.name,
            "version": policy.version,
            "owner": policy.owner,
            "digest": digest_of(policy.to_dict()),
        },
        "notes": list(notes),
        "funnel": _funnel(verdict),
        "ended": _ended(verdict),
        "rules": [hits._asdict() for hits in judged.hits],
        "categories": by_category(judged.hits, matches),
        "overlap": overlap(matches),
        "rules_that_met_nothing": [hits.rule for hits in judged.hits if hits.matched == 0],
        "splits": dict(sorted(Counter(s for s in verdict["split"].to_pylist() if s).items())),
        "scores": _histograms(judged.scores, policy),
        "duplicates": clusters(judged),
        "reweighting": reweighting,
        "terms": _terms(judged, terms),
        "examples": examples_of(judged, examples),
    }
    if truth is not None:
        report["planted"], report["benign"] = _against_truth(judged, truth)
    return report


def summary_of(report: dict[str, Any]) -> dict[str, Any]:
    """The report's main figures, flat, for the run's metrics."""
    funnel = {stage["stage"]: stage["rows"] for stage in report["funnel"]}
    summary: dict[str, Any] = {"policy": f"{report['policy']['name']} v{report['policy']['version']}"}
    summary |= {f"rows_{stage}": rows for stage, rows in funnel.items()}
    summary["kept_share"] = round(funnel["kept"] / max(funnel["input"], 1), 6)
    summary["rules_that_met_nothing"] = len(report["rules_that_met_nothing"])
    summary |= {f"split_{split}": rows for split, rows in report["splits"].items()}
    summary["terms_shifted"] = sum(row["shifted"] for row in report["terms"])
    summary |= {
        f"term_ratio/{_metric(row['group'])}/{_metric(row['term'])}": row["ratio"]
        for row in report["terms"]
        if row["ratio"] is not None
    }
    for name in ("classifier_auc", "effective_samples", "clipped"):
        if report["reweighting"]:
            summary[f"reweighting_{name}"] = report["reweighting"][name]
    for half, of_half in report.get("planted", {}).items():
        summary[f"planted_{half}"] = of_half["all"]["planted"]
        summary[f"planted_{half}_dropped"] = of_half["all"]["dropped"]
        summary[f"planted_{half}_recall"] = of_half["all"]["recall"]
    if "benign" in report:
        summary["benign_dropped"] = report["benign"]["dropped"]
        summary["benign_dropped_share"] = report["benign"]["share"]
    return summary


def _metric(name: str) -> str:
    """A part of a metric's name: MLflow takes letters, digits, spaces and few signs."""
    return re.sub(r"[^\w \-]", "_", name)


def _funnel(verdict: pa.Table) -> list[dict[str, Any]]:
    """Rows left after each stage."""
    rows, ended = account(verdict), Counter(verdict["category"].to_pylist())
    fetched = rows.total - ended[ACQUIRE]
    decoded = fetched - ended[ANNOTATE]
    duplicates = sum(
        category == DUPLICATE and not keep
        for category, keep in zip(verdict["category"].to_pylist(), verdict["keep"].to_pylist(), strict=True)
    )
    stages = {
        "input": rows.total,
        "fetched": fetched,
        "decoded": decoded,
        "passed_policy": rows.kept + duplicates,
        "kept": rows.kept,
    }
    return [{"stage": stage, "rows": count} for stage, count in stages.items()]


def _ended(verdict: pa.Table) -> list[dict[str, Any]]:
    """Where each input row ended, most frequent first; counts sum to the input's rows."""
    counts = Counter(zip(verdict["keep"].to_pylist(), verdict["reason"].to_pylist(), strict=True))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0][1]))
    return [{"reason": reason, "kept": keep, "rows": rows} for (keep, reason), rows in ordered]


def _terms(judged: Judged, terms: Terms) -> list[dict[str, Any]]:
    """Shares of terms; those that training sees too, where it does not see every sample alike."""
    kept = np.array(judged.verdict["keep"])
    weight = np.array(judged.verdict["weight"], dtype=np.float64)
    uneven = len(np.unique(weight[kept])) > 1
    seen = reached_policy(judged.verdict)
    return term_table(judged.scores["caption"], seen, kept, weight if uneven else None, terms)


def _histograms(scores: pa.Table, policy: Policy) -> list[dict[str, Any]]:
    """Counts in 30 equal bins for every score that a rule reads, with the rules' bounds."""
    bounds: dict[str, list[dict[str, Any]]] = {}
    for i, rule in enumerate(policy.rules):
        for _, leaf in rule.when.leaves(f"rules[{i}].when"):
            for side in ("above", "below"):
                if (value := getattr(leaf, side)) is not None:
                    bound = {"rule": rule.name, "side": side, "value": value}
                    bounds.setdefault(str(leaf.score), []).append(bound)
    histograms = []
    for name in sorted(bounds):
        values = scores[name].drop_null().to_numpy().astype(np.float64)
        finite = values[np.isfinite(values)]
        ends = [*finite, *(bound["value"] for bound in bounds[name])]
        low, high = (min(ends), max(ends)) if len(finite) else (0.0, 1.0)
        counts, edges = np.histogram(finite, BINS, (low, high if high > low else low + 1))
        histograms.append(
            {
                "score": name,
                "rows": len(finite),
                "counts": counts.tolist(),
                "edges": [round(float(edge), 6) for edge in edges],
                "bounds": bounds[name],
            }
        )
    return histograms


def _against_truth(judged: Judged, truth: Artifact) -> tuple[dict[str, Any], dict[str, Any]]:
    """Recall on planted captions by half and category, and the benign captions that went with them.

    Both are of rows that reached the policy.  A planted caption counts as dropped only when a rule dropped
    it, not when its picture failed or was a duplicate.
    """
    known = {row["url"]: row for row in pq.read_table(truth.path / TRUTH_FILE).to_pylist()}
    rows = []
    for url, caption, verdict in zip(
        judged.scores["url"].to_pylist(),
        judged.scores["caption"].to_pylist(),
        judged.verdict.to_pylist(),
        strict=True,
    ):
        if verdict["category"] in (ACQUIRE, ANNOTATE, FORGOTTEN) or url not in known:
            continue
        by_rule = not verdict["keep"] and verdict["category"] != DUPLICATE
        rows.append({"caption": caption, "by_rule": by_rule, "verdict": verdict, "truth": known[url]})
    planted = [row for row in rows if row["truth"]["category"]]
    halves = {
        half: _recall([row for row in planted if row["truth"]["half"] == half])
        for half in sorted({row["truth"]["half"] for row in planted})
    }
    return halves, _benign([row for row in rows if not row["truth"]["category"]])


def _recall(planted: list[dict[str, Any]]) -> dict[str, Any]:
    categories = sorted({row["truth"]["category"] for row in planted})
    groups = {name: [row for row in planted if row["truth"]["category"] == name] for name in categories}
    return {name: _counted(rows) for name, rows in [*groups.items(), ("all", planted)]}


def _counted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    dropped = sum(row["by_rule"] for row in rows)
    interval = wilson(dropped, len(rows))
    return {
        "planted": len(rows),
        "dropped": dropped,
        "recall": round(dropped / max(len(rows), 1), 6),
        "wilson_95": [round(end, 4) for end in interval],
        "missed": [row["caption"] for row in rows if not row["by_rule"]],
    }


def _benign(rows: list[dict[str, Any]]) -> dict[str, Any]:
    lost = [row for row in rows if row["by_rule"]]
    interval = wilson(len(lost), len(rows))
    return {
        "captions": len(rows),
        "dropped": len(lost),
        "share": round(len(lost) / max(len(rows), 1), 6),
        "wilson_95": [round(end, 4) for end in interval],
        "list": list(_listed(lost)),
    }


def _listed(rows: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for row in rows[:LISTED]:
        verdict = row["verdict"]
        score = None if verdict["score"] is None else round(float(verdict["score"]), 4)
        yield {"key": verdict["key"], "caption": row["caption"], "rule": verdict["rule"], "score": score}
