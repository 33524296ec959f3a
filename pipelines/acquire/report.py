"""What became of a URL list, counted from the committed shards alone, so that it is true after a resume."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq

from infra.store import Draft
from pipelines.acquire.states import State

REPORT_FILE = "acquire_report.json"
WORST_HOSTS = 20
EXAMPLES_PER_STATE = 3


def write_report(draft: Draft) -> dict[str, Any]:
    """Write `acquire_report.json` into the draft and return the step's summary."""
    states: Counter[str] = Counter()
    hosts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    examples: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    sides: list[int] = []
    stored_bytes = 0
    for name, record in sorted(draft.committed().items()):
        stored_bytes += sum(size for file, size in record.size_bytes.items() if file.endswith(".tar"))
        columns = ["url", "status", "error_message", "original_width", "original_height"]
        for row in pq.read_table(draft.path / f"{name}.parquet", columns=columns).to_pylist():
            state = row["status"]
            states[state] += 1
            hosts[_host(row["url"])][state] += 1
            if state == State.OK:
                if row["original_width"] is not None:  # an adopted shard may not know
                    sides.append(min(row["original_width"], row["original_height"]))
            elif len(examples[state]) < EXAMPLES_PER_STATE:
                examples[state].append({"url": row["url"], "message": row["error_message"]})
    report = {
        "rows": states.total(),
        "states": dict(sorted(states.items())),
        "success_share": _share(states),
        "stored_bytes": stored_bytes,
        "shorter_side": _quantiles(sides),
        "worst_hosts": _worst(hosts),
        "examples": dict(sorted(examples.items())),
    }
    draft.write_bytes(REPORT_FILE, (json.dumps(report, indent=1) + "\n").encode())
    summary = {"rows": states.total(), "success_share": _share(states), "stored_bytes": stored_bytes}
    return summary | {f"state_{state}": count for state, count in sorted(states.items())}


def _share(states: Counter[str]) -> float:
    return round(states[State.OK] / max(states.total(), 1), 6)


def _quantiles(sides: list[int]) -> dict[str, float]:
    """Quantiles, in pixels, of the shorter side of the images as fetched."""
    if not sides:
        return {}
    points = (0.0, 0.1, 0.5, 0.9, 1.0)
    return {f"p{100 * p:.0f}": float(q) for p, q in zip(points, np.quantile(sides, points), strict=True)}


def _worst(hosts: dict[str, Counter[str]]) -> list[dict[str, Any]]:
    """Hosts with the most failures, with their counts by state."""
    failures = {host: states.total() - states[State.OK] for host, states in hosts.items()}
    ranked = sorted((host for host in hosts if failures[host]), key=lambda host: (-failures[host], host))
    return [
        {"host": host, "failed": failures[host], "states": dict(sorted(hosts[host].items()))}
        for host in ranked[:WORST_HOSTS]
    ]


def _host(url: str | None) -> str:
    try:
        return urlsplit(url or "").netloc or "(none)"
    except ValueError:
        return "(malformed)"
