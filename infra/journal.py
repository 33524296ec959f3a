"""The metric journal: every figure is on local disk before any tracking server hears of it (guarantee 5).

One JSON object per line.  Kinds of event::

    {"type": "metrics", "step": 120, "time_ms": 1700000000000, "values": {"loss": 0.93}}
    {"type": "params", "values": {"lr": "0.0003"}}
    {"type": "artifact", "path": "/abs/grid.png", "name": "grids"}

A line is appended with one `write` in append mode, so a killed writer leaves at most one torn line, which
readers skip and the next writer ends.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Journal:
    """Append-only journal of one step; picklable, so that training workers write to it themselves."""

    path: Path

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Record metrics at a step of the optimiser (or 0 for a single figure)."""
        event = {"type": "metrics", "step": step, "time_ms": int(time.time() * 1000)}
        self._append(event | {"values": {name: float(value) for name, value in values.items()}})

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters; values are written as text."""
        self._append({"type": "params", "values": {name: str(value) for name, value in values.items()}})

    def artifact(self, path: Path, name: str = "") -> None:
        """Record that the file at `path` belongs to the run, under folder `name`."""
        self._append({"type": "artifact", "path": str(path.absolute()), "name": name})

    def events(self) -> Iterator[dict[str, Any]]:
        """All whole events written so far."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            for line in stream:
                if line.endswith(b"}\n"):
                    yield json.loads(line)

    def truncate_after(self, step: int) -> None:
        """Forget metrics later than `step`: a resumed training writes them again, to the bit."""
        kept = [e for e in self.events() if e["type"] != "metrics" or e["step"] <= step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(event) + "\n" for event in kept))
        temporary.replace(self.path)

    def _append(self, event: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # A line torn by a kill must not swallow the one after it.
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, ("\n" * torn + json.dumps(event) + "\n").encode())
        finally:
            os.close(descriptor)
