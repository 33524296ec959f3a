"""`unclip approve`: let a verdict pass to training."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import click

from workflows.cli.options import json_option, root_option, set_option


@click.command()
@click.argument("what", metavar="RECIPE|VERDICT")
@click.option(
    "--by",
    "who",
    envvar="UNCLIP_USER",
    show_envvar=True,
    help="Who approves, for the record.  [default: the user's name]",
)
@click.option("--note", default="", help="Goes into the record.")
@click.option("--step", metavar="STEP", help="The approve step, where the recipe has several.")
@root_option
@set_option
@json_option
def approve(
    what: str,
    who: str | None,
    note: str,
    step: str | None,
    root: Path,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Approve the verdict that RECIPE waits with, or the one whose address is given.

    A recipe with a step of kind `approve` stops there until this is on record, for exactly that verdict and
    the version of its policy; another policy needs another approval.  Nothing on record is ever changed.

    \b
    unclip approve my.yaml --by "A. Reviewer" --note "looked at 200 drops"
    unclip approve 0123456789abcdef0123 --root /data/unclip --by "A. Reviewer"
    """
    from workflows.approve import approve as record
    from workflows.approve import verdict_to_approve
    from workflows.execute import locked
    from workflows.refusal import Refusal

    if not root.is_dir():
        raise Refusal(f"no root {root}; give the --root of your runs")
    with locked(root, wait=False, quiet=True):
        verdict = verdict_to_approve(what, root, overrides, step)
        outcome = record(root, verdict, who=who or getpass.getuser(), note=note)
    click.echo(json.dumps(outcome.json(), indent=1) if as_json else outcome.text(root))
