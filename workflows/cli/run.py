"""`unclip run`: plan, then execute, then say what was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workflows.cli.options import from_option, json_option, only_option, root_option, set_option

if TYPE_CHECKING:
    from workflows.recipe import Recipe


@click.command()
@click.argument("recipe")
@root_option
@set_option
@only_option
@from_option
@click.option("--wait", is_flag=True, help="Queue behind another run on the same root instead of refusing.")
@click.option("--no-tracking", is_flag=True, help="Keep the journals only; a later run sends them to MLflow.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@json_option
def run(
    recipe: str,
    root: Path,
    overrides: tuple[str, ...],
    only: str | None,
    start: str | None,
    wait: bool,
    no_tracking: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run RECIPE; steps that are finished are not run again.

    Killed at any moment, the same command goes on from the last committed shard or checkpoint.
    Everything is tracked in MLflow: MLFLOW_TRACKING_URI, or a database under the root.

    \b
    unclip run demo
    unclip run demo --set steps.decoder.steps=400
    unclip run my.yaml --only judge --json
    """
    from infra.locks import RootBusyError, root_lock
    from infra.machine import folder_problem
    from workflows.recipe import load_recipe
    from workflows.refusal import Refusal

    loaded = load_recipe(recipe, overrides)
    if problem := folder_problem(root):
        raise Refusal(problem)
    try:
        with root_lock(root, wait=wait, on_wait=lambda holder: _say(f"waiting for {holder}", quiet)):
            text, data = _run_locked(loaded, root, only, start, quiet=quiet, tracking=not no_tracking)
    except RootBusyError as error:
        raise Refusal(str(error)) from None
    click.echo(json.dumps(data, indent=1) if as_json else text)


def _run_locked(
    recipe: Recipe, root: Path, only: str | None, start: str | None, *, quiet: bool, tracking: bool
) -> tuple[str, dict[str, Any]]:
    """Plan and run while the root is ours; the end of the run as text and as data."""
    from workflows.plan import make_plan
    from workflows.record import load_record
    from workflows.refusal import Refusal
    from workflows.report import run_json, run_text
    from workflows.run import Runner, nothing_to_do
    from workflows.tracking import NoTracker, Tracker

    plan = make_plan(recipe, root, only=only, start=start)
    if plan.problems:
        raise Refusal(plan.problems)
    run_id = recipe.run_id()
    tracker = Tracker(root, run_id) if tracking else NoTracker()
    if nothing_to_do(plan, run_id):
        record = load_record(root, run_id)
        assert record is not None  # nothing_to_do read it
        heading = f"nothing to do: all {len(record.steps)} steps are finished\n"
    else:
        try:
            record, heading = Runner(plan, run_id=run_id, tracker=tracker, quiet=quiet).run(), ""
        except BaseException:
            tracker.finish()
            raise
    outcome = tracker.finish()
    return heading + run_text(record, root, outcome), run_json(record, root, outcome)


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        click.echo(text, err=True)
