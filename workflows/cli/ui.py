"""`unclip ui`: MLflow's pages over a root's runs."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import click

from workflows.cli.options import root_option


@click.command()
@root_option
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(root: Path, port: int) -> None:
    """Open the MLflow UI on loopback (it takes some 30 s to start); Ctrl-C ends it.

    \b
    unclip ui
    unclip ui --root /data/unclip --port 5050
    """
    from infra.mlflow_client import database_path, tracking_uri, without_password
    from workflows.refusal import Refusal

    uri = tracking_uri(root)
    if uri.startswith("http"):
        click.echo(f"runs are tracked by the server at {without_password(uri)}: open that")
        return
    if not os.environ.get("MLFLOW_TRACKING_URI") and not database_path(root).is_file():
        raise Refusal(f"nothing is tracked in {root} yet: unclip run RECIPE --root {root}")
    if problem := port_problem(port):
        raise Refusal(problem)
    click.echo(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)", err=True)
    sys.stderr.flush()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    # One worker: each takes 250 MB, and this serves one person.
    command += ["--port", str(port), "--workers", "1", "--no-serve-artifacts"]
    command += ["--default-artifact-root", (root / "mlflow" / "artifacts").absolute().as_uri()]
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Its job queue serves other features, and costs a process and some seconds of the start.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.execv(command[0], command)


def port_problem(port: int) -> str | None:
    """Why loopback's `port` cannot be listened on, or None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return f"port {port} cannot be used ({error.strerror}); choose another with --port"
    return None
