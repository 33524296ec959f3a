"""The tracking uploader: makes MLflow say what the root's records, manifests and journals say.

A process of its own, so that a slow or hanging server cannot slow a run, and so that a run killed with
`kill -9` still gets its true status: the uploader notices that its run is gone and marks it KILLED.  It
keeps no state but the marks of `infra.mlflow_client`; starting it again at any time is harmless.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.digests import digest_of
from infra.journal_tail import JournalTail
from infra.locks import root_lock
from infra.mlflow_client import MetricPoint, MlflowServer, TrackedRun, tracking_uri
from infra.store import Artifact, write_atomically
from workflows.record import ENDED_STATES, RunRecord, StepRecord, all_records, load_record, run_folder

EVERY_S = 2.0
LAST_ATTEMPTS = 2
STATUS = {
    "running": "RUNNING",
    "done": "FINISHED",
    "memoised": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "blocked": "KILLED",  # waits for somebody; MLflow has no word for it
}


def tracking_folder(root: Path) -> Path:
    return root / "mlflow"


def marks_folder(root: Path, uri: str) -> Path:
    """Marks stand apart per server: another `MLFLOW_TRACKING_URI` gets everything from the beginning."""
    return tracking_folder(root) / "marks" / digest_of(uri)[:12]


def unsent(root: Path, uri: str) -> list[str]:
    """Ids of the runs of which the server does not know the last word.  Cheap: MLflow is not imported."""
    stamps = _stamps(root, uri)
    return [r.id for r in all_records(root) if stamps.get(r.id) != _stamp(root, r)]


class Uploader:
    """Sends the records of one root to one server."""

    def __init__(self, root: Path, server: MlflowServer) -> None:
        self.root = root
        self.server = server
        self._root_id = _root_id(root)
        self._tails: dict[str, JournalTail] = {}

    def send(self, record: RunRecord) -> None:
        """Bring MLflow up to what the record says now; raises what MLflow raises."""
        try:
            self._send(record)
        except BaseException:
            self._tails.clear()  # what was read may not have arrived: read it again, the marks filter
            raise

    def _send(self, record: RunRecord) -> None:
        stamp = _stamp(self.root, record)
        state = "interrupted" if record.state == "running" and not record.alive else record.state
        parent = self._run(
            record.id, "unclip.run", name=f"{record.recipe} {record.id[:8]}", start_ms=record.started_ms
        )
        if state == "running":
            parent.status("RUNNING", 0)
        tags = {"unclip.recipe": record.recipe}
        if record.description:
            tags["mlflow.note.content"] = record.description
        for step in record.steps:
            parent.params({f"{step.name}/{key}": value for key, value in _flat(step.params).items()})
            if step.address:
                tags |= self._send_step(step, parent, record, killed=state == "interrupted")
        parent.tags(tags)
        resolved = run_folder(self.root, record.id) / "recipe.yaml"
        parent.artifact(resolved)
        if state != "running":
            parent.status(STATUS[state], record.ended_ms)
            stamps = _stamps(self.root, self.server.uri) | {record.id: stamp}
            write_atomically(_stamps_path(self.root, self.server.uri), json.dumps(stamps).encode())

    def _send_step(
        self, step: StepRecord, parent: TrackedRun, record: RunRecord, *, killed: bool
    ) -> dict[str, str]:
        """Send one step to the run of its address; returns tags for the parent."""
        child = self._run(
            step.address, "unclip.address", name=step.name, start_ms=step.started_ms, parent=parent.run_id
        )
        state = "interrupted" if step.state == "running" and killed else step.state
        if state == "running":
            child.status("RUNNING", 0)
        child.params({"kind": step.kind, **_flat(step.params)})
        self._send_journal(step, child)
        tags = {f"unclip.step.{step.name}": child.run_id}
        if step.state in ENDED_STATES:
            artifact = Artifact.open(Path(step.path))
            self._send_artifact(step, artifact, child, parent)
            if artifact.kind == "corpus":
                tags[f"unclip.corpus.{step.name}"] = artifact.content
            if artifact.kind == "model":
                child.register(artifact.path, record.model_name, artifact.content)
        if state in STATUS:
            child.status(STATUS[state], step.ended_ms)
        return tags

    def _send_journal(self, step: StepRecord, child: TrackedRun) -> None:
        if not step.journal:  # found finished, and nothing was run
            return
        tail = self._tails.setdefault(step.journal, JournalTail(Path(step.journal)))
        points = []
        for event in tail.new_events():
            match event["type"]:
                case "metrics":
                    at = {"step": event["step"], "time_ms": event["time_ms"]}
                    points += [MetricPoint(key=k, value=v, **at) for k, v in event["values"].items()]
                case "params":
                    child.params(event["values"])
                case "artifact":
                    child.artifact(Path(event["path"]), event["name"])
        child.metrics(points)

    @staticmethod
    def _send_artifact(step: StepRecord, artifact: Artifact, child: TrackedRun, parent: TrackedRun) -> None:
        """What the finished artifact says of itself: figures here and, as `step/figure`, in the parent."""
        rows = artifact.manifest["rows"]
        figures = (
            {f"rows_{key}": rows[key] for key in ("total", "kept", "dropped", "failed")}
            if rows["total"]
            else {}
        )
        figures |= {k: v for k, v in _flat(artifact.summary).items() if _is_number(v)}
        figures["seconds"] = artifact.host["seconds"]
        at = int(artifact.host["finished_at"] * 1000)
        child.figures({f"summary/{key}": value for key, value in figures.items()}, at)
        child.tags({"unclip.content": artifact.content, "unclip.path": str(artifact.path)})
        child.artifact(artifact.path / "manifest.json")
        parent.figures({f"{step.name}/{key}": value for key, value in figures.items()}, at)

    def _run(
        self, identity: str, tag: str, *, name: str, start_ms: int, parent: str | None = None
    ) -> TrackedRun:
        mark = marks_folder(self.root, self.server.uri) / f"{tag.rpartition('.')[2]}-{identity[:20]}.json"
        tags = {"unclip.root": self._root_id, tag: identity}
        return self.server.run(mark, identity=tags, name=name, start_ms=start_ms, parent=parent)


def follow(root: Path, run_id: str | None, parent_pid: int | None) -> int:
    """Send the followed run until it ends or its process dies, then what else is unsent; 0 if all arrived."""
    uri = tracking_uri(root)
    failures = 0
    uploader: Uploader | None = None
    while True:
        record = load_record(root, run_id) if run_id else None
        if record is not None and record.pid != parent_pid and record.alive:
            return 0  # a newer execution took the run over, and has an uploader of its own
        ended = record is None or record.state != "running" or not record.alive
        try:
            uploader = uploader or Uploader(root, _connect(root, uri))
            if record is not None:
                uploader.send(record)
            _say(root, "")
            if ended:
                return _send_others(root, uploader)
        except Exception as error:  # whatever MLflow, its database or the network raise must stay here
            traceback.print_exc()
            _say(root, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            failures = failures + 1 if ended else 0
            if failures >= LAST_ATTEMPTS:
                return 1
        time.sleep(EVERY_S)


def _send_others(root: Path, uploader: Uploader) -> int:
    """Send the ended runs that are unsent; one that cannot be sent holds up no other.  0 if all arrived."""
    code = 0
    for other in all_records(root):
        if other.id in unsent(root, uploader.server.uri) and not other.alive:
            try:
                uploader.send(other)
            except Exception as error:  # an artifact moved away, or what MLflow raises
                traceback.print_exc()
                _say(root, f"run {other.id}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
                code = 1
    return code


def last_error(root: Path) -> str:
    """Why the last attempt to send failed, or nothing."""
    path = tracking_folder(root) / "error.txt"
    return path.read_text().strip() if path.is_file() else ""


def _connect(root: Path, uri: str) -> MlflowServer:
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "unclip")
    return MlflowServer(uri, experiment, tracking_folder(root) / "artifacts")


def _say(root: Path, error: str) -> None:
    (tracking_folder(root) / "error.txt").write_text(error + "\n" if error else "")


def _stamp(root: Path, record: RunRecord) -> str:
    """Changes whenever the run has something new to tell.

    A record left at `running` by a dead process differs from the same record of a living one.
    """
    sizes = [
        Path(s.journal).stat().st_size if s.journal and Path(s.journal).exists() else 0 for s in record.steps
    ]
    text = (run_folder(root, record.id) / "run.json").read_text()
    return digest_of([text, sizes, record.alive])


def _stamps_path(root: Path, uri: str) -> Path:
    path = marks_folder(root, uri) / "sent.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _stamps(root: Path, uri: str) -> dict[str, str]:
    path = marks_folder(root, uri) / "sent.json"
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}


def _root_id(root: Path) -> str:
    """A name of the root's own: two roots that share a server are two series of runs, not one."""
    path = root / "runs" / "root_id"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, secrets.token_hex(8).encode())
    return path.read_text().strip()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as `outer.inner`; everything else, lists too, stays one value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def main() -> None:
    """`python -m workflows.uploader ROOT [--follow RUN --parent PID]`."""
    parser = argparse.ArgumentParser(description="Send a root's records to MLflow.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--follow", metavar="RUN")
    parser.add_argument("--parent", type=int, metavar="PID")
    arguments = parser.parse_args()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.nice(10)  # the run comes first
    with root_lock(tracking_folder(arguments.root), wait=True, on_wait=lambda _: None):
        code = follow(arguments.root, arguments.follow, arguments.parent)
    sys.stderr.flush()
    os._exit(code)  # MLflow's background threads may hang on a server that does not answer


if __name__ == "__main__":
    main()
