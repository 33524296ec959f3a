"""`unclip forget`: rows that may reach nobody any more."""

from __future__ import annotations

import getpass
import json
from pathlib import Path

import click

from workflows.cli.options import json_option, root_option


@click.command()
@click.option(
    "--list",
    "request",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="CSV or JSONL with a column url, sha256 (of the image as fetched), or corpus and key.",
)
@click.option("--purge", is_flag=True, help="Destroy the bytes in every artifact; weights stay.")
@click.option("--yes", is_flag=True, help="Really purge; without it --purge says what it would meet.")
@click.option("--reason", default="", help="Goes into the audit record.")
@click.option(
    "--by",
    "who",
    envvar="UNCLIP_USER",
    show_envvar=True,
    help="Who asks, for the audit record.  [default: the user's name]",
)
@root_option
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@json_option
def forget(
    request: Path,
    purge: bool,
    yes: bool,
    reason: str,
    who: str | None,
    root: Path,
    quiet: bool,
    as_json: bool,
) -> None:
    """Forget the samples of a list: no later run fetches them, trains on them or evaluates with them.

    Says which networks were trained on them.  With --purge their bytes are destroyed too; killed in the
    middle, the same command goes on.

    \b
    unclip forget --list removals.csv --reason "asked by the owner"
    unclip forget --list removals.csv --purge --yes
    """
    from infra.locks import RootBusyError, root_lock
    from workflows.forget import forget as carry_out
    from workflows.forget import outcome_json, outcome_text
    from workflows.refusal import Refusal

    if not root.is_dir():
        raise Refusal(f"no root {root}; give the --root of your runs")
    trial = purge and not yes
    try:
        with root_lock(root, wait=False):
            outcome = carry_out(
                root,
                request,
                who=who or getpass.getuser(),
                reason=reason,
                destroy=purge,
                trial=trial,
                quiet=quiet,
            )
    except RootBusyError as error:
        raise Refusal(str(error)) from None
    click.echo(json.dumps(outcome_json(outcome), indent=1) if as_json else outcome_text(outcome, root))
    if trial:
        raise Refusal("--purge destroys these rows for good; add --yes to do it")
