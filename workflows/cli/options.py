"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("unclip-root"),
    envvar="UNCLIP_ROOT",
    show_default=True,
    show_envvar=True,
    help="Folder that holds artifacts, runs and tracking.",
)

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="a.b=c",
    help="Override a value of the recipe, as in --set steps.decoder.steps=100; may be given several times.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")

only_option = click.option(
    "--only", metavar="STEP", help="Just this step; what it takes must be finished already."
)

from_option = click.option(
    "--from",
    "start",
    metavar="STEP",
    help="This step and all that follow from it; what they take from others must be finished already.",
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that runs a recipe: `wait`, `no_tracking`, `quiet`."""
    for option in (
        click.option("--quiet", is_flag=True, help="No progress on stderr."),
        click.option(
            "--no-tracking", is_flag=True, help="Keep the journals only; a later run sends them to MLflow."
        ),
        click.option(
            "--wait", is_flag=True, help="Queue behind another run on the same root instead of refusing."
        ),
    ):
        command = option(command)
    return command


step_option = click.option("--step", metavar="STEP", help="The acquire step, where the recipe has several.")

verdict_option = click.option(
    "--verdict", metavar="ADDRESS", help="The start of a verdict's address, instead of the root's newest."
)


def label_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that reads labels: `category`, `policy`, `annotation`."""
    for option in (
        click.option(
            "--annotation", metavar="ADDRESS", help="The scores to take, instead of the root's newest."
        ),
        click.option(
            "--policy",
            default="filters/policies/demo.yaml",
            show_default=True,
            help="Its rules' categories are those that labels may name.",
        ),
        click.option("--category", help="Of several in the labels, the one meant."),
    ):
        command = option(command)
    return command
