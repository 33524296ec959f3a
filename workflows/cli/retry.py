"""`unclip retry`: ask again for the rows that failed for a passing reason."""

from __future__ import annotations

from pathlib import Path

import click

from workflows.cli.options import json_option, root_option, run_options, set_option, step_option


@click.command()
@click.argument("recipe")
@click.option(
    "--only",
    "states",
    default="transient,timeout",
    show_default=True,
    metavar="STATE,...",
    help="The states whose rows are fetched again.",
)
@step_option
@root_option
@set_option
@run_options
@json_option
def retry(
    recipe: str,
    states: str,
    step: str | None,
    root: Path,
    overrides: tuple[str, ...],
    wait: bool,
    no_tracking: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fetch again what RECIPE's acquisition could not get; makes the next snapshot of its corpus.

    Every other row stays as it is.  `unclip run` then takes the newest snapshot, and runs what depends on it.
    Killed at any moment, the same command goes on; after it is done, the same command asks once more.

    \b
    unclip retry demo
    unclip retry my.yaml --only transient,timeout,gone --root /data/unclip
    """
    from workflows.cli.snapshot_report import say
    from workflows.execute import locked
    from workflows.next_snapshot import find_acquisition, parse_states
    from workflows.next_snapshot import retry as take
    from workflows.recipe import load_recipe

    only, loaded = parse_states(states), load_recipe(recipe, overrides)
    with locked(root, wait=wait, quiet=quiet):
        outcome = take(find_acquisition(loaded, root, step), only, quiet=quiet, tracking=not no_tracking)
    say(outcome, nothing=f"nothing to retry: no row is {' or '.join(only)}", as_json=as_json)
