"""A few samples that each rule met, and what to call them in a page; pictures stay out of the JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.judge.together import sample
from pipelines.judge.verdict import DUPLICATE, Judged


def examples(judged: Judged, count: int) -> dict[str, list[dict[str, Any]]]:
    """For each reason why rows are not kept after judging, `count` samples spread evenly over the corpus."""
    keep, reasons = judged.verdict["keep"].to_pylist(), judged.verdict["reason"].to_pylist()
    rows: dict[str, list[int]] = {}
    for row, (kept, reason) in enumerate(zip(keep, reasons, strict=True)):
        if not kept and reason.startswith(("drop: ", "review: ", f"{DUPLICATE}: ")):
            rows.setdefault(reason, []).append(row)
    return {reason: [sample(judged, row) for row in _spread(rows[reason], count)] for reason in sorted(rows)}


def example_keys(report: dict[str, Any]) -> list[str]:
    """Keys of all samples that a report shows: examples and members of the largest clusters."""
    shown = [one for listed in report["examples"].values() for one in listed]
    shown += [one for cluster in report["duplicates"]["largest"] for one in cluster["samples"]]
    return sorted({one["key"] for one in shown})


def _spread(rows: list[int], count: int) -> list[int]:
    if len(rows) <= count:
        return rows
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).astype(int)]
