"""`unclip status`: how far the runs of a root are."""

from __future__ import annotations

import json
from pathlib import Path

import click

from workflows.cli.options import json_option


@click.command()
@click.argument(
    "root",
    type=click.Path(path_type=Path),
    default=Path("unclip-root"),
    envvar="UNCLIP_ROOT",
)
@json_option
def status(root: Path, as_json: bool) -> None:
    """Show the runs under ROOT (default: $UNCLIP_ROOT or ./unclip-root), also while one is going.

    \b
    unclip status
    unclip status /data/unclip --json
    """
    from workflows.record import all_records
    from workflows.refusal import Refusal
    from workflows.report import status_json, status_text

    if root.exists() and not root.is_dir():
        raise Refusal(f"root {root}: is a file, not a folder")
    records = list(all_records(root))
    click.echo(json.dumps(status_json(records, root), indent=1) if as_json else status_text(records, root))
