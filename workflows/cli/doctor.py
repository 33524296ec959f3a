"""`unclip doctor`: what is here, what is missing, and the command that fixes it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from workflows.cli.options import json_option, root_option


@click.command()
@root_option
@json_option
def doctor(root: Path, as_json: bool) -> None:
    """Say what is here, what is missing, and the command that fixes it.

    Python, torch, devices, Ray, DeepSpeed, MLflow, disk and memory; exits with 1 if something required is
    missing.

    \b
    unclip doctor
    unclip doctor --json
    """
    from infra.doctor import examine

    findings = examine(root)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            click.echo(f"{finding.state:8} {finding.name.ljust(width)}  {finding.detail}")
            if finding.fix:
                click.echo(f"{'':8} {'':{width}}  fix: {finding.fix}")
    if any(finding.state == "missing" for finding in findings):
        raise click.exceptions.Exit(1)
