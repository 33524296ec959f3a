"""Running a plan: each step at most once per address, in order, with a record on disk at every moment."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from infra.journal import Journal
from infra.progress import Progress
from infra.ray_session import stop_ray
from infra.store import Artifact, Draft, Store, finish
from pipelines.step import Context, step_config
from workflows.graph import Node
from workflows.plan import Plan, PlannedStep, State, address_of, resolve_inputs, taken_up
from workflows.record import (
    RunRecord,
    StepRecord,
    journal_path,
    load_record,
    now_ms,
    process_born,
    run_folder,
)
from workflows.refusal import Refusal, StepFailed
from workflows.snapshots import taken
from workflows.tracking import NoTracker


class Runner:
    """Executes one plan.  `run()` returns the record, whose state says how it ended."""

    def __init__(self, plan: Plan, *, run_id: str, tracker: NoTracker, quiet: bool = False) -> None:
        self.plan = plan
        self.store = Store(plan.root)
        self.tracker = tracker
        self.quiet = quiet
        self.record = _new_record(plan, run_id)
        self._made: dict[str, Artifact | None] = {}

    def run(self) -> RunRecord:
        """Run every step of the plan that is not finished; the first failure ends the run.

        Raises `StepFailed` when a step raised, `Refusal` when one does not take the inputs that were made for
        it, `KeyboardInterrupt` on Ctrl-C or SIGTERM; the record on disk says so in every case.
        """
        self._begin()
        try:
            with _terminable():
                for number, planned in enumerate(self.plan.steps, start=1):
                    self._one(f"[{number}/{len(self.plan.steps)}] {planned.node.name}", planned)
            self.record.state = "done"
        except StepFailed:
            self.record.state = "failed"
            raise
        except Refusal:
            self.record.state = "blocked"
            raise
        except KeyboardInterrupt:
            self.record.state = "interrupted"
            raise
        finally:
            if self.record.state == "running":  # an error of the runner itself, on its way up
                self.record.state = "failed"
            self.record.ended_ms = now_ms()
            self._save()
            stop_ray()
        return self.record

    def _begin(self) -> None:
        folder = run_folder(self.plan.root, self.record.id)
        folder.mkdir(parents=True, exist_ok=True)
        resolved = yaml.safe_dump(self.plan.recipe.resolved(), sort_keys=False, allow_unicode=True)
        if not (folder / "recipe.yaml").is_file() or (folder / "recipe.yaml").read_text() != resolved:
            (folder / "recipe.yaml").write_text(resolved)
        self._save()
        if self.plan.to_run:
            self.tracker.start()

    def _one(self, label: str, planned: PlannedStep) -> None:
        """Bring one step to its end: found finished, skipped, or made now."""
        node, record = planned.node, self.record.step(planned.node.name)
        if planned.state is State.SKIPPED:
            record.state = "skipped"
            return
        inputs, _ = resolve_inputs(node, self.store, self._made)
        finished = taken(node, self.store, address_of(node, inputs))
        artifact = finished.artifact if finished else None
        if artifact is None and (problems := node.step.check_inputs(node.config, inputs)):
            record.state, record.error = "blocked", problems[0]
            raise Refusal([f"steps.{node.name}: {problem}" for problem in problems])
        address = artifact.address if artifact else address_of(node, inputs)
        record.address = address
        record.journal = str(journal_path(self.plan.root, node.step.produces, address).absolute())
        if artifact is not None:
            record.state = "memoised"
            self._note(record, artifact)
            if self.plan.to_run:
                self._say(f"{label}: finished before")
        else:
            record.state, record.started_ms, record.error = "running", now_ms(), ""
            self._save()
            left = taken_up(node, self.store, address)
            self._say(f"{label}: running" + (f", {left}" if left else ""))
            artifact = self._make(node, record, inputs)
            record.state = "done"
            self._note(record, artifact)
            self._say(f"{label}: done in {record.seconds:.1f} s{_rows(artifact)}")
        self._made[node.name] = artifact
        self._save()
        if warning := self.tracker.warning():
            self._say(warning)

    def _make(self, node: Node, record: StepRecord, inputs: dict[str, Artifact]) -> Artifact:
        """Run the step; on its failure the traceback goes to its log and one line goes up."""
        log = run_folder(self.plan.root, self.record.id) / f"{node.name}.log"
        record.log = str(log.absolute())
        draft = self.store.draft(node.step.produces, record.address)
        try:
            with _logging_to(log):
                return _execute(node, draft, inputs, Path(record.journal), quiet=self.quiet)
        except (KeyboardInterrupt, SystemExit) as error:
            # Ray turns SIGTERM into SystemExit; a step has no business ending the process itself.
            record.state, record.ended_ms = "interrupted", now_ms()
            raise KeyboardInterrupt from error
        except Exception as error:
            with log.open("a") as stream:
                traceback.print_exc(file=stream)
            record.state, record.ended_ms, record.error = "failed", now_ms(), one_line(error)
            raise StepFailed(f"step {node.name} failed: {record.error} (traceback: {log})") from error

    def _note(self, record: StepRecord, artifact: Artifact) -> None:
        host = artifact.host
        record.path = str(artifact.path.absolute())
        record.seconds = float(host["seconds"])
        record.ended_ms = int(host["finished_at"] * 1000)
        record.started_ms = record.ended_ms - int(record.seconds * 1000)

    def _save(self) -> None:
        self.record.save(self.plan.root)

    def _say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


def nothing_to_do(plan: Plan, run_id: str) -> bool:
    """Whether the newest record says that exactly these artifacts were made by a run that ended well."""
    record = load_record(plan.root, run_id)
    if plan.to_run or record is None or record.state != "done":
        return False
    return all(record.step(step.node.name).address == step.address for step in plan.steps if step.address)


def _execute(
    node: Node, draft: Draft, inputs: dict[str, Artifact], journal: Path, *, quiet: bool
) -> Artifact:
    progress = Progress(node.name, quiet=quiet)
    context: Context[Any, Any] = Context(
        config=node.config,
        resources=node.resources,
        inputs=inputs,
        draft=draft,
        journal=Journal(journal),
        progress=progress,
    )
    started = time.monotonic()
    try:
        summary = node.step.run(context)
    finally:
        progress.close()
    if address_of(node, inputs) != draft.address:
        # What was committed may be made of both versions of that file: none of it can be trusted.
        shutil.rmtree(draft.path)
        raise RuntimeError(
            "a file that this step depends on (policy, weights) was changed while it ran; run again"
        )
    rows = sum(context.fixed_rows[1:], context.fixed_rows[0]) if context.fixed_rows else None
    return finish(
        draft,
        step={
            "kind": node.step.kind,
            "version": node.step.version,
            "config": step_config(node.config),
            "identity": node.step.identity(node.config),
        },
        inputs=inputs,
        summary=summary,
        seconds=time.monotonic() - started,
        rows=rows,
    )


def one_line(error: BaseException) -> str:
    """`ValueError: what went wrong`, of the error at the bottom where Ray wrapped it into its own."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return one_line(cause)
    lines = str(error).strip().splitlines() or [""]
    # A message of several lines is usually somebody's traceback: its last line is the message.
    text = lines[-1] if len(lines) > 1 and "Traceback" in str(error) else lines[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _new_record(plan: Plan, run_id: str) -> RunRecord:
    before = load_record(plan.root, run_id)
    return RunRecord(
        id=run_id,
        recipe=plan.recipe.name,
        description=plan.recipe.description,
        model_name=plan.recipe.model_name,
        pid=os.getpid(),
        born=process_born(os.getpid()),
        host=socket.gethostname(),
        executions=before.executions + 1 if before else 1,
        started_ms=now_ms(),
        steps=[
            StepRecord(
                name=step.node.name,
                kind=step.node.step.kind,
                produces=step.node.step.produces,
                params=step.node.config.model_dump(mode="json"),
            )
            for step in plan.steps
        ],
    )


def _rows(artifact: Artifact) -> str:
    rows = artifact.rows
    if not rows.total:
        return ""
    return f", {rows.total:,} rows = {rows.kept:,} kept + {rows.dropped:,} dropped + {rows.failed:,} failed"


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send log records and Python warnings to the step's log while it runs."""
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C: committed shards stand, the record says interrupted."""

    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
