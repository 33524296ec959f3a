"""What a run leaves on disk: `ROOT/runs/<id>/run.json`, rewritten atomically at every change.

It is the only thing that `unclip status` and the tracking uploader read: both work while a run is going,
after it was killed, and without importing any step.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

RunState = Literal["running", "done", "failed", "interrupted", "blocked"]
StepState = Literal["pending", "running", "done", "memoised", "failed", "interrupted", "skipped", "blocked"]

ENDED_STATES = ("done", "memoised")


@dataclass(kw_only=True)
class StepRecord:
    """One step of a run.  `seconds` is what making the artifact took, in whichever run that was."""

    name: str
    kind: str
    produces: str
    state: StepState = "pending"
    address: str = ""
    path: str = ""
    journal: str = ""
    seconds: float = 0.0
    started_ms: int = 0
    ended_ms: int = 0
    params: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    log: str = ""


@dataclass(kw_only=True)
class RunRecord:
    """One run identity: the newest execution of one resolved recipe in one root."""

    id: str
    recipe: str
    description: str = ""
    model_name: str = ""
    state: RunState = "running"
    pid: int = 0
    born: float = 0.0
    host: str = ""
    executions: int = 1
    started_ms: int = 0
    ended_ms: int = 0
    steps: list[StepRecord] = field(default_factory=list)

    def step(self, name: str) -> StepRecord:
        return next(step for step in self.steps if step.name == name)

    @property
    def alive(self) -> bool:
        """Whether the process that wrote `running` is still there (on this host, as far as one can see)."""
        if self.state != "running":
            return False
        # The moment it was born tells the process from a later one with its number.
        return self.host != socket.gethostname() or process_born(self.pid) == self.born

    def save(self, root: Path) -> None:
        path = run_folder(root, self.id) / "run.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
        temporary.replace(path)


def load_record(root: Path, run_id: str) -> RunRecord | None:
    """The record of a run, or None where there is none."""
    path = run_folder(root, run_id) / "run.json"
    if not path.is_file():
        return None
    data = json.loads(path.read_bytes())
    steps = [StepRecord(**step) for step in data.pop("steps")]
    return RunRecord(**data, steps=steps)


def all_records(root: Path) -> Iterator[RunRecord]:
    """Every run of the root, the one started last first."""
    found = (load_record(root, path.parent.name) for path in (root / "runs").glob("*/run.json"))
    yield from sorted((r for r in found if r), key=lambda r: (r.started_ms, r.id), reverse=True)


def run_folder(root: Path, run_id: str) -> Path:
    return root / "runs" / run_id


def journal_path(root: Path, kind: str, address: str) -> Path:
    """The metric journal of whatever run makes this artifact.

    It belongs to the address, not to a run: a second recipe that takes up a half-trained step of a first
    one goes on in the same journal, and so in the same MLflow run.
    """
    return root / "journals" / kind / f"{address[:20]}.jsonl"


def now_ms() -> int:
    return int(time.time() * 1000)


def process_born(pid: int) -> float:
    """When the process with this number was started, in seconds since the epoch; 0 where there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0
