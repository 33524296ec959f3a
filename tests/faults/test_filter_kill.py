"""`unclip filter` killed with -9 while it annotates, stopped while it lays files: the same bytes after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.store import Artifact
from tests import filtering
from tests.filtering import QUICK, files_of
from workflows.cli.main import run_cli
from workflows.publish import MARKER, publish

HERE = Path(__file__).parent.parent.parent
PATIENCE_S = 240.0


def arguments(shards: Path, policy: Path, out: Path) -> list[str]:
    given = ["filter", str(shards), "--policy", str(policy), "--out", str(out), "--write-rejected"]
    return [*given, "--no-tracking", "--quiet", *QUICK]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filtering.write_folder(tmp_path_factory.mktemp("filter") / "shards")


@pytest.fixture(scope="module")
def policy(shards: Path) -> Path:
    return filtering.write_policy(shards.parent / "policy.yaml")


@pytest.fixture(scope="module")
def undisturbed(shards: Path, policy: Path) -> Path:
    out = shards.parent / "undisturbed"
    assert run_cli(arguments(shards, policy, out)) == 0
    return out


def kill_when(command: list[str], reached: Callable[[], bool]) -> None:
    """Start `unclip`, and kill it and all it started once the moment is `reached`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workflows.cli.main", *command],
        cwd=HERE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    limit = time.monotonic() + PATIENCE_S
    while not reached():
        assert process.poll() is None and time.monotonic() < limit, "it ended before the moment to kill it"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    time.sleep(2.0)  # Ray's workers notice that their driver is dead


@pytest.mark.soak  # what a kill does to these steps themselves: test_annotate_kill.py, test_export_kill.py
@pytest.mark.parametrize("making", ["annotation", "filtered"])
def test_killed_while_it_works_it_goes_on_to_the_same_files(
    shards: Path, policy: Path, undisturbed: Path, tmp_path: Path, making: str
) -> None:
    out = tmp_path / "out"
    command = arguments(shards, policy, out)
    kill_when(command, lambda: bool(list((out / ".unclip/store" / making).glob("*/_shards/*.json"))))
    if making == "annotation":
        assert files_of(out) == {}  # nothing half done lies in the user's folder
    assert run_cli(command) == 0
    assert files_of(out) == files_of(undisturbed)


class StoppedError(Exception):
    """Stands for the kill."""


def test_stopped_while_files_are_laid_they_are_all_there_after(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every rename in turn: publishing begins again, and leaves what an undisturbed one does."""
    (manifest,) = (undisturbed / ".unclip/store/filtered").glob("*/manifest.json")
    artifact, rename = Artifact.open(manifest.parent), Path.replace
    left = 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise StoppedError
        return rename(self, target)

    out, stopped = tmp_path / "out", 0
    monkeypatch.setattr(Path, "replace", replace)
    for renames in range(100):
        left = renames
        try:
            publish(artifact, out)
            break
        except StoppedError:
            stopped += 1
            laid = {path.name for path in out.rglob("*.tar") if not path.name.startswith(".")}
            assert not laid or (out / MARKER).is_file()  # what lies there is known to be ours
    assert stopped >= 10
    left = 100
    assert publish(artifact, out) is False
    assert files_of(out) == files_of(undisturbed)
