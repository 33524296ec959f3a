"""`unclip adopt`: a folder of img2dataset shards becomes a corpus of the root."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from workflows.cli.options import json_option, root_option, run_options


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", help="What the run is called; the folder's name by default.")
@root_option
@run_options
@json_option
def adopt(
    folder: Path, name: str | None, root: Path, wait: bool, no_tracking: bool, quiet: bool, as_json: bool
) -> None:
    """Take in the img2dataset shards in FOLDER: validated and rewritten, nothing is downloaded.

    FOLDER is only read.  In a recipe, a step of kind `adopt` does the same.

    \b
    unclip adopt /data/laion-part
    unclip adopt /data/laion-part --root /data/unclip --json
    """
    from pipelines.adopt.step import Adopt, AdoptConfig
    from workflows.execute import execute, locked
    from workflows.graph import Node
    from workflows.recipe import Recipe

    config = AdoptConfig(folder=str(folder.absolute()))
    node = Node(name="adopt", step=Adopt(), config=config, resources=Adopt.Resources(), inputs={})
    label = _label(name, folder)
    recipe = Recipe(path=folder, name=label, description="", model_name=label, nodes=(node,))
    with locked(root, wait=wait, quiet=quiet):
        done = execute(recipe, root, quiet=quiet, tracking=not no_tracking)
    reference = f"${{artifact:corpus/{done.record.step('adopt').address[:20]}}}"
    if as_json:
        click.echo(json.dumps(done.json() | {"reference": reference}, indent=1))
    else:
        click.echo(f"{done.text()}\nin a recipe: corpus: {reference}")


def _label(name: str | None, folder: Path) -> str:
    """A name for the run that recipes allow too; raises `Refusal` where one was given that they do not."""
    from workflows.refusal import Refusal

    if name is None:
        return re.sub(r"[^A-Za-z0-9_.-]", "-", folder.absolute().name).lstrip("_.-")[:100] or "adopted"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise Refusal(f"--name {name!r}: expected letters, digits, _, . and -, a letter or digit first")
    return name
