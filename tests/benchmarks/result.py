"""The one line every benchmark ends with, and the machine it ran on."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def machine() -> str:
    """CPU model, cores and memory, as they belong beside every figure."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {gib:.0f} GiB, Python {platform.python_version()}"


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def print_result(
    name: str,
    *,
    ours: Any,
    peers: Any = None,
    limit: Any = None,
    ratios: dict[str, float] | None = None,
    repeats: int,
    spread: Any,
) -> None:
    """Print the benchmark's last line: one JSON object with the agreed keys."""
    result = {
        "name": name,
        "ours": ours,
        "peers": peers or {},
        "limit": limit or {},
        "ratios": ratios or {},
        "repeats": repeats,
        "spread": spread,
        "machine": machine(),
    }
    print(json.dumps(result, sort_keys=True))
