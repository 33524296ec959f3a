"""Guarantee 5: tracking down, slow or killed fails no run; what it missed is sent once; statuses are true."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.faults.conftest import Toys
from workflows.record import RunRecord, StepRecord
from workflows.tracking import Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient

FAIL = ["--set", "steps.numbers.mode=fail"]
SLOW = ["--set", "steps.numbers.pause_s=0.4"]


def uploaders(root: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if {"workflows.uploader", str(root)} <= set(process.info["cmdline"] or [])
    ]


def wait_for(condition: Callable[[], Any], what: str, patience_s: float = 90.0) -> Any:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {patience_s} s for {what}")


class Tracked:
    """What an MLflow database holds of a root."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.client: MlflowClient = MlflowClient(uri, uri)
        experiment = self.client.get_experiment_by_name("unclip")
        assert experiment is not None
        runs = self.client.search_runs([experiment.experiment_id])
        self.parents = [run for run in runs if "unclip.run" in run.data.tags]
        self.children = [run for run in runs if "unclip.address" in run.data.tags]

    def statuses(self) -> dict[str, str]:
        return {run.info.run_name: run.info.status for run in self.children}

    def losses(self) -> list[int]:
        """Steps of the metric that the first step writes anew at every start."""
        (numbers,) = [run for run in self.children if run.info.run_name == "numbers"]
        return [m.step for m in self.client.get_metric_history(numbers.info.run_id, "loss")]


def database(root: Path) -> str:
    return f"sqlite:///{root}/mlflow/mlflow.db"


def test_killed_run_and_killed_uploader_end_as_one_whole_run(toys: Toys) -> None:
    driver = toys.start(*SLOW, tracking=True)
    wait_for(lambda: len(toys.commits()) > 1, "a committed shard")
    driver.kill()
    driver.communicate()
    wait_for(lambda: not uploaders(toys.root), "the uploader to notice")
    tracked = Tracked(database(toys.root))
    assert [run.info.status for run in tracked.parents] == ["KILLED"]
    assert tracked.statuses() == {"numbers": "KILLED"}

    driver = toys.start(*SLOW, tracking=True)
    for process in wait_for(lambda: uploaders(toys.root), "an uploader"):
        os.kill(process.pid, signal.SIGKILL)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 0 and "tracked in" in out, (out, err)

    tracked = Tracked(database(toys.root))
    assert [run.info.status for run in tracked.parents] == ["FINISHED"]
    assert tracked.statuses() == dict.fromkeys(["numbers", "twice", "four_times"], "FINISHED")
    assert len(tracked.children) == 3, "a ghost, or a second run of one step"
    assert tracked.losses() == [0, 1, 2, 3]
    (parent,) = tracked.parents
    assert parent.data.metrics["numbers/numbers"] == 12 and parent.data.metrics["twice/rows_kept"] == 12
    assert all(child.data.tags["mlflow.parentRunId"] == parent.info.run_id for child in tracked.children)

    again = toys.run(*SLOW, tracking=True)
    assert again.stdout.startswith("nothing to do") and not uploaders(toys.root)


def test_a_server_that_is_down_fails_nothing_and_gets_all_of_it_later(toys: Toys) -> None:
    toys.environment |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    failed = toys.run(*FAIL)
    assert failed.returncode == 1
    done = toys.run(tracking=True)
    assert done.returncode == 0
    assert "not all reached MLflow" in done.stdout and "the next `unclip run` sends the rest" in done.stdout

    del toys.environment["MLFLOW_TRACKING_URI"]
    again = toys.run(tracking=True)
    assert again.stdout.startswith("nothing to do") and "tracked in sqlite" in again.stdout
    tracked = Tracked(database(toys.root))
    assert sorted(run.info.status for run in tracked.parents) == ["FAILED", "FINISHED"]
    by_status = sorted((run.info.run_name, run.info.status) for run in tracked.children)
    assert by_status == [
        ("four_times", "FINISHED"),
        ("numbers", "FAILED"),
        ("numbers", "FINISHED"),
        ("twice", "FINISHED"),
    ]


def test_a_server_that_never_answers_costs_no_more_than_the_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        step = StepRecord(name="a", kind="count", produces="numbers")
        RunRecord(id="0" * 16, recipe="x", state="done", steps=[step]).save(tmp_path)
        tracker = Tracker(tmp_path, "0" * 16, patience_s=6)
        started = time.monotonic()
        tracker.start()
        assert time.monotonic() - started < 1, "starting must not wait for anything"
        outcome = tracker.finish()
        assert 5 < time.monotonic() - started < 8
    assert not outcome.complete and "not done within 6 s" in outcome.problem
    assert not uploaders(tmp_path)


def test_a_run_whose_artifact_is_gone_holds_up_no_other(tmp_path: Path) -> None:
    lost = StepRecord(name="a", kind="count", produces="numbers", state="done", address="ab", path="/gone")
    for number, steps in enumerate(([], [lost], [])):  # the one started last is sent first
        record = RunRecord(id=f"{number:016}", recipe="x", state="done", started_ms=1 + number, steps=steps)
        record.save(tmp_path)
        (tmp_path / "runs" / record.id / "recipe.yaml").touch()
    tracker = Tracker(tmp_path, f"{2:016}")
    tracker.start()
    outcome = tracker.finish()
    assert not outcome.complete and "/gone" in outcome.problem
    tracked = Tracked(database(tmp_path))
    statuses = {run.data.tags["unclip.run"]: run.info.status for run in tracked.parents}
    assert statuses[f"{0:016}"] == statuses[f"{2:016}"] == "FINISHED"


@pytest.mark.soak
def test_a_real_server_that_comes_back(toys: Toys) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    toys.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    assert toys.run(tracking=True).returncode == 0
    store = f"sqlite:///{toys.folder}/server.db"
    command = [sys.executable, "-m", "mlflow", "server", "--port", port, "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(toys.folder / "files")]
    server = subprocess.Popen(command, cwd=toys.folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: _answers(int(port)), "the server")
        out = toys.run("--json", tracking=True).stdout
        assert json.loads(out)["tracking"]["complete"]
    finally:
        server.terminate()
        server.wait()
    tracked = Tracked(store)
    assert len(tracked.parents) == 1 and len(tracked.children) == 3 and tracked.losses() == [0, 1, 2, 3]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
