"""`unclip filter`: a folder of shards, a policy, and the shards that are left."""

from __future__ import annotations

import json
from pathlib import Path

import click

from workflows.cli.options import json_option, run_options, set_option


@click.command("filter")
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--policy", required=True, metavar="FILE", help="The policy that decides.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for what is kept.")
@click.option("--write-rejected", is_flag=True, help="Write the other samples too, into OUT/rejected.")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder for work in progress.  [default: OUT/.unclip]"
)
@set_option
@run_options
@json_option
def filter_shards(
    shards: Path,
    policy: str,
    out: Path,
    write_rejected: bool,
    root: Path | None,
    overrides: tuple[str, ...],
    wait: bool,
    no_tracking: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Filter the WebDataset shards in the folder SHARDS by a policy; no recipe needed.

    OUT gets shards with what is kept, members as they were, the verdict as columns of the Parquet files, and
    report.html.  OUT/rejected names every other row by key, with the reason.  SHARDS is only read.  Killed at
    any moment, the same command goes on; done, it does nothing.

    \b
    unclip filter /data/laion-part --policy filters/policies/demo.yaml --out /data/clean
    unclip filter shards/ --policy my.yaml --out clean/ --write-rejected --json
    unclip filter shards/ --policy my.yaml --out clean/ --set steps.judge.keep_duplicates=true
    """
    from workflows.filter import run_filter

    done = run_filter(
        shards,
        policy,
        out,
        rejected=write_rejected,
        root=root,
        overrides=overrides,
        wait=wait,
        quiet=quiet,
        tracking=not no_tracking,
    )
    click.echo(json.dumps(done.json(), indent=1) if as_json else done.text())
