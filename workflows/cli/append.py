"""`unclip append`: further URLs for a corpus, without touching what it has."""

from __future__ import annotations

from pathlib import Path

import click

from workflows.cli.options import json_option, root_option, run_options, set_option, step_option


@click.command()
@click.argument("recipe")
@click.argument("urls")
@step_option
@root_option
@set_option
@run_options
@json_option
def append(
    recipe: str,
    urls: str,
    step: str | None,
    root: Path,
    overrides: tuple[str, ...],
    wait: bool,
    no_tracking: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fetch the list URLS into new shards of RECIPE's corpus; makes its next snapshot.

    The list must have the columns of the first one.  Finished shards stay as they are.  `unclip run` then
    takes the newest snapshot, and runs what depends on it.  A list is appended once: the same command again
    goes on where it was killed, and does nothing once it is done.

    \b
    unclip append demo more.parquet
    unclip append my.yaml more.csv --root /data/unclip
    """
    from workflows.cli.snapshot_report import say
    from workflows.execute import locked
    from workflows.next_snapshot import append as take
    from workflows.next_snapshot import find_acquisition
    from workflows.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    with locked(root, wait=wait, quiet=quiet):
        outcome = take(find_acquisition(loaded, root, step), urls, quiet=quiet, tracking=not no_tracking)
    say(outcome, nothing=f"nothing to append: a list with the content of {urls} is in it", as_json=as_json)
