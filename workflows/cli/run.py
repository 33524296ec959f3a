"""`unclip run`: plan, then execute, then say what was made."""

from __future__ import annotations

import json
from pathlib import Path

import click

from workflows.cli.options import from_option, json_option, only_option, root_option, run_options, set_option


@click.command()
@click.argument("recipe")
@root_option
@set_option
@only_option
@from_option
@run_options
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
    from workflows.execute import execute, locked
    from workflows.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    with locked(root, wait=wait, quiet=quiet):
        done = execute(loaded, root, only=only, start=start, quiet=quiet, tracking=not no_tracking)
    click.echo(json.dumps(done.json(), indent=1) if as_json else done.text())
