"""What became of a URL list, counted from the committed shards alone, so that it is true after a resume.

Shards are read one after the other; what is kept between them does not grow with the list, but for the hosts,
of which the worst `HOSTS_HELD` are.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.store import Draft
from pipelines.acquire.facts import read_facts
from pipelines.acquire.states import DROPPED, State

REPORT_FILE = "acquire_report.json"
PAGE_FILE = "acquire_report.html"
WORST_HOSTS = 20
EXAMPLES_PER_STATE = 3
HOSTS_HELD = 200_000
BINS_PER_DOUBLING = 4
UNKNOWN = "(not told)"


class Tally:
    """Counts over shards; `add` them in order, then read `report()`."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.hosts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.content_types: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.examples: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
        self.shorter_side: Counter[int] = Counter()
        self.fetched_bytes: Counter[int] = Counter()
        self.stored_bytes = 0
        self.hosts_trimmed = False

    def add(self, rows: pa.Table, facts: pa.Table | None, stored_bytes: int) -> None:
        """Count one shard: its Parquet, its fetch facts (an adopted shard has none), its tar's size."""
        self.stored_bytes += stored_bytes
        types = [None] * len(rows) if facts is None else facts["content_type"].to_pylist()
        columns = ["url", "status", "error_message", "original_width", "original_height"]
        for row, content_type in zip(rows.select(columns).to_pylist(), types, strict=True):
            state = row["status"]
            self.states[state] += 1
            self.hosts[_host(row["url"])][state] += 1
            self.content_types[content_type or UNKNOWN][state] += 1
            if state == State.OK:
                if row["original_width"] is not None:  # an adopted shard may not know
                    self.shorter_side[_bin(min(row["original_width"], row["original_height"]))] += 1
            elif len(self.examples[state]) < EXAMPLES_PER_STATE:
                self.examples[state].append({"url": row["url"], "message": row["error_message"]})
        if facts is not None:
            self.fetched_bytes.update(_bin(size) for size in facts["fetched_bytes"].to_pylist() if size)
        if len(self.hosts) > HOSTS_HELD:
            self._trim_hosts()

    def report(self) -> dict[str, Any]:
        """The report, JSON-able and without times."""
        return {
            "rows": self.states.total(),
            "states": dict(sorted(self.states.items())),
            "success_share": _share(self.states),
            "stored_bytes": self.stored_bytes,
            "fetched_bytes": _histogram(self.fetched_bytes),
            "shorter_side": _histogram(self.shorter_side),
            "content_types": _ranked(self.content_types, key=lambda states: states.total()),
            "hosts": len(self.hosts),
            "worst_hosts": _ranked(self.hosts, key=_failures)[:WORST_HOSTS],
            "worst_hosts_are_estimates": self.hosts_trimmed,
            "examples": dict(sorted(self.examples.items())),
        }

    def _trim_hosts(self) -> None:
        """Forget the half of the hosts with the fewest failures."""
        ranked = sorted(self.hosts, key=lambda host: (-_failures(self.hosts[host]), host))
        for host in ranked[HOSTS_HELD // 2 :]:
            del self.hosts[host]
        self.hosts_trimmed = True


def write_report(draft: Draft) -> dict[str, Any]:
    """Write the report as JSON and as a page into the draft; returns the step's summary."""
    tally = Tally()
    for name, record in sorted(draft.committed().items()):
        tally.add(
            pq.read_table(draft.path / f"{name}.parquet"),
            read_facts(draft.path, name),
            sum(size for file, size in record.size_bytes.items() if file.endswith(".tar")),
        )
    report = tally.report()
    draft.write_bytes(REPORT_FILE, (json.dumps(report, indent=1) + "\n").encode())
    draft.write_bytes(PAGE_FILE, render(report).encode())
    summary = {key: report[key] for key in ("rows", "success_share", "stored_bytes")}
    return summary | {f"state_{state}": count for state, count in report["states"].items()}


def render(report: dict[str, Any]) -> str:
    """The report as one HTML page without external assets; what came from the web is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(report=report, zip=zip)


def _bin(value: int) -> int:
    """Bins of equal ratio: `BINS_PER_DOUBLING` of them from any value to its double."""
    return int(np.floor(BINS_PER_DOUBLING * np.log2(max(value, 1))))


def _histogram(counts: Counter[int]) -> dict[str, Any]:
    """Bins from smallest to largest with their lower edges, and quantiles as good as the bins are (19 %)."""
    if not counts:
        return {"n": 0, "from": [], "count": []}
    bins = range(min(counts), max(counts) + 1)
    count = [counts[b] for b in bins]
    edges = [round(2 ** (b / BINS_PER_DOUBLING), 1) for b in bins]
    reached = np.cumsum(count) / sum(count)
    quantiles = {f"p{100 * q:.0f}": edges[int(np.searchsorted(reached, q))] for q in (0.1, 0.5, 0.9)}
    return {"n": sum(count), **quantiles, "from": edges, "count": count}


def _share(states: Counter[str]) -> float:
    return round(states[State.OK] / max(states.total(), 1), 6)


def _failures(states: Counter[str]) -> int:
    """Rows that failed; those we wanted nothing of, such as repeated URLs, are no failure of their host."""
    return states.total() - states[State.OK] - sum(states[state] for state in DROPPED)


def _ranked(groups: dict[str, Counter[str]], key: Any) -> list[dict[str, Any]]:
    """Groups by falling `key` (those at 0 left out), with their counts by state."""
    names = sorted((name for name in groups if key(groups[name])), key=lambda n: (-key(groups[n]), n))
    return [
        {"name": name, "failed": _failures(groups[name]), "states": dict(sorted(groups[name].items()))}
        for name in names
    ]


def _host(url: str | None) -> str:
    try:
        return urlsplit(url or "").netloc or "(none)"
    except ValueError:
        return "(malformed)"
