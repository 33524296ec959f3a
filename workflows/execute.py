"""One execution as every command does it: under the root's lock, planned, refused or run, tracked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.locks import RootBusyError, root_lock
from infra.machine import folder_problem
from workflows.plan import make_plan
from workflows.recipe import Recipe
from workflows.record import RunRecord, load_record
from workflows.refusal import Refusal
from workflows.report import run_json, run_text
from workflows.run import Runner, nothing_to_do
from workflows.tracking import NoTracker, Tracker, TrackingOutcome


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run ended."""

    root: Path
    record: RunRecord
    tracking: TrackingOutcome | None
    nothing_to_do: bool

    def text(self) -> str:
        """The end of the run for people."""
        heading = f"nothing to do: all {len(self.record.steps)} steps are finished\n"
        return (heading if self.nothing_to_do else "") + run_text(self.record, self.root, self.tracking)

    def json(self) -> dict[str, Any]:
        """The end of the run for machines."""
        return run_json(self.record, self.root, self.tracking)


@contextmanager
def locked(root: Path, *, wait: bool, quiet: bool) -> Iterator[None]:
    """Hold the root; raises `Refusal` where it cannot be written to, or is held and we are not to `wait`."""
    if problem := folder_problem(root):
        raise Refusal(problem)

    def say(holder: str) -> None:
        if not quiet:
            print(f"waiting for {holder}", file=sys.stderr, flush=True)

    try:
        with root_lock(root, wait=wait, on_wait=say):
            yield
    except RootBusyError as error:
        raise Refusal(str(error)) from None


def execute(
    recipe: Recipe,
    root: Path,
    *,
    only: str | None = None,
    start: str | None = None,
    quiet: bool,
    tracking: bool,
) -> Execution:
    """Plan and run `recipe` while the root is ours.

    Raises `Refusal` listing every problem of the plan, `StepFailed` where a step raised, and
    `KeyboardInterrupt`; the record on disk says so.
    """
    plan = make_plan(recipe, root, only=only, start=start)
    if plan.problems:
        raise Refusal(plan.problems)
    run_id = recipe.run_id()
    tracker = Tracker(root, run_id) if tracking else NoTracker()
    finished = load_record(root, run_id) if nothing_to_do(plan, run_id) else None
    if finished is not None:
        return Execution(root=root, record=finished, tracking=tracker.finish(), nothing_to_do=True)
    try:
        record = Runner(plan, run_id=run_id, tracker=tracker, quiet=quiet).run()
    except BaseException:
        tracker.finish()
        raise
    return Execution(root=root, record=record, tracking=tracker.finish(), nothing_to_do=False)
