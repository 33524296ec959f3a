"""The command `unclip`.  Exit codes: 0 done, 1 failed, 2 refused, 130 interrupted."""

from __future__ import annotations

import os
import sys

import click

from infra.ray_session import stop_ray
from infra.store import StoreError
from workflows.cli.adopt import adopt
from workflows.cli.append import append
from workflows.cli.approve import approve
from workflows.cli.calibrate import calibrate
from workflows.cli.doctor import doctor
from workflows.cli.filter import filter_shards
from workflows.cli.fit import fit
from workflows.cli.forget import forget
from workflows.cli.generate import generate
from workflows.cli.judge import judge
from workflows.cli.label import label
from workflows.cli.manipulate import inpaint, interpolate, reconstruct, textdiff, vary
from workflows.cli.plan import plan
from workflows.cli.policy import policy
from workflows.cli.retry import retry
from workflows.cli.run import run
from workflows.cli.schema import schema
from workflows.cli.status import status
from workflows.cli.ui import ui
from workflows.cli.weights import export, import_weights
from workflows.refusal import Refusal, StepFailed


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="unclip", prog_name="unclip")
def cli() -> None:
    """From a list of image URLs with captions to a curated corpus and an evaluated, registered unCLIP model.

    \b
    unclip doctor                         is everything here?
    unclip plan demo                      what would be done, for how long, what speaks against it
    unclip run demo                       do it; the same command again goes on where it was stopped
    unclip retry demo                     ask again for what failed for a passing reason
    unclip filter SHARDS --policy P --out DIR   what a policy keeps of a folder of shards
    unclip judge --policy P               what another policy would change, from stored scores
    unclip approve my.yaml                let a verdict pass to training
    unclip generate "a red heart" -n 4    draw with the newest model
    unclip import SOURCE --out DIR        weights of diffusers, Karlo or OpenAI as a model of this project
    unclip export --layout diffusers --out DIR  a model as diffusers loads it
    unclip ui                             look at runs, metrics and pictures in MLflow
    unclip forget --list FILE             let samples reach nobody any more
    """


CORPUS = (plan, run, retry, append, adopt, forget, filter_shards)
JUDGING = (judge, policy, approve, label, calibrate, fit)
DRAWING = (generate, vary, reconstruct, interpolate, textdiff, inpaint, import_weights, export)
for command in (*CORPUS, *JUDGING, *DRAWING, status, ui, doctor, schema):
    cli.add_command(command)


def main() -> None:
    """Run the command line; every refusal is one line on stderr."""
    code = run_cli(sys.argv[1:])
    if code == 130:
        # Threads of an interrupted Ray driver abort while Python winds down, and the shell would see 134.
        stop_ray()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run_cli(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        code = cli.main(arguments, prog_name="unclip", standalone_mode=False)
        return int(code or 0)
    except Refusal as refusal:
        return _complain(refusal.problems, 2)
    except click.ClickException as error:
        return _complain([error.format_message()], 2)
    except (StepFailed, StoreError) as failure:
        return _complain([str(failure)], 1)
    except (KeyboardInterrupt, click.Abort):
        return _complain(["interrupted; the same command goes on from what is committed"], 130)


def _complain(lines: list[str], code: int) -> int:
    for line in lines:
        print(f"unclip: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
