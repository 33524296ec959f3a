"""`unclip plan`: what a run would do, and everything that speaks against it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from workflows.cli.options import from_option, json_option, only_option, root_option, set_option


@click.command()
@click.argument("recipe")
@root_option
@set_option
@only_option
@from_option
@json_option
def plan(
    recipe: str, root: Path, overrides: tuple[str, ...], only: str | None, start: str | None, as_json: bool
) -> None:
    """Show each step of RECIPE: done, will run, or blocked; write nothing.

    RECIPE is a YAML file, or the name of a recipe that comes with the package.
    Exits with 2, listing every problem, if the recipe could not be run.

    \b
    unclip plan demo
    unclip plan my.yaml --set steps.decoder.steps=5000 --root /data/unclip
    """
    from workflows.plan import make_plan
    from workflows.recipe import load_recipe
    from workflows.refusal import Refusal
    from workflows.report import plan_json, plan_text

    made = make_plan(load_recipe(recipe, overrides), root, only=only, start=start)
    click.echo(json.dumps(plan_json(made), indent=1) if as_json else plan_text(made))
    if made.problems:
        raise Refusal(made.problems)
