"""`unclip judge`: what another policy would change, from the stored scores."""

from __future__ import annotations

import json
from pathlib import Path

import click

from workflows.cli.options import json_option, root_option, verdict_option


@click.command()
@click.option("--policy", required=True, metavar="FILE", help="The policy to try.")
@verdict_option
@root_option
@json_option
def judge(policy: str, verdict: str | None, root: Path, as_json: bool) -> None:
    """Say what a changed policy would drop and keep: by category and rule, with example keys.

    The policy is applied to the scores that are stored in ROOT; no image is looked at, and nothing is
    written.  A run of the recipe with that policy makes the new verdict.

    \b
    unclip judge --policy stricter.yaml
    unclip judge --policy stricter.yaml --verdict 0123abcd --root /data/unclip --json
    """
    from workflows.judging import open_verdict, read_policy, trial_json, trial_text, try_policy

    wanted = read_policy(policy)
    trial = try_policy(open_verdict(root, verdict), wanted)
    click.echo(json.dumps(trial_json(trial), indent=1) if as_json else trial_text(trial))
