"""Which roots can be written, and what the doctor finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.machine import available_memory_bytes, folder_problem, free_disk_bytes
from workflows.cli.main import run_cli


def test_roots(tmp_path: Path) -> None:
    assert folder_problem(tmp_path / "new" / "deeper") is None
    assert not (tmp_path / "new").exists()
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in str(folder_problem(file / "below"))
    assert "no file system that holds files" in str(folder_problem(Path("/proc/unclip")))


def test_figures_are_plausible(tmp_path: Path) -> None:
    assert 2**27 < available_memory_bytes() < 2**46
    assert free_disk_bytes(tmp_path / "new") > 0


def test_doctor_finds_this_environment_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_cli(["doctor", "--json", "--root", str(tmp_path)]) == 0
    findings = {f["name"]: f for f in json.loads(capsys.readouterr().out)}
    assert {
        "python",
        "torch",
        "ray",
        "deepspeed",
        "mlflow",
        "packages",
        "cpu",
        "memory",
        "disk",
    } <= findings.keys()
    assert findings["packages"]["state"] == "ok"


def test_doctor_names_what_is_missing_and_the_fix(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "infra.doctor.metadata.requires", lambda _: ["numpy>=99", "no-such-thing", "x; extra == 'y'"]
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    file = tmp_path / "file"
    file.touch()
    assert run_cli(["doctor", "--root", str(file)]) == 1
    out = capsys.readouterr().out
    assert "expected >=99; no-such-thing is not installed" in out and "fix: make setup" in out
    assert "http://127.0.0.1:1 does not answer" in out
    assert "missing  root" in out
