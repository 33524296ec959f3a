"""Deployment files say what the project says: versions of the lock, commands that exist, nothing opened."""

from __future__ import annotations

import importlib.metadata
import shlex
from pathlib import Path

import yaml
from click import Context

from workflows.cli.main import cli

DEPLOY = Path(__file__).parent.parent.parent / "infra" / "deploy"


def test_the_ray_job_runs_an_existing_command_on_the_locked_ray() -> None:
    spec = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())["spec"]
    assert spec["rayClusterSpec"]["rayVersion"] == importlib.metadata.version("ray")
    program, command, *options = shlex.split(spec["entrypoint"])
    assert program == "unclip"
    found = cli.get_command(Context(cli), command)
    assert found is not None
    found.make_context(command, options)  # raises where an option is unknown or missing
    pods = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in pods):
        (container,) = pod["containers"]
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
        assert {"name": "RAY_AUTH_TOKEN_PATH", "value": f"{mounted['token']}/token"} in container["env"]


def test_the_mlflow_server_is_published_on_loopback_alone() -> None:
    (service,) = yaml.safe_load((DEPLOY / "mlflow.yaml").read_text())["services"].values()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["command"].startswith("mlflow server ")
