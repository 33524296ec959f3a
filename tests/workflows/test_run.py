"""The runner: order, record, failure, interruption, and what it prints."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from infra.store import Artifact
from workflows.cli.main import run_cli
from workflows.record import all_records

RUN = ["run", "--no-tracking", "--quiet"]


def command(recipe: Path, *more: str) -> list[str]:
    return [*RUN, str(recipe), "--root", str(recipe.parent / "root"), *more]


def test_a_run_makes_what_the_recipe_says(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(command(recipe, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(s["name"], s["state"]) for s in told["steps"]] == [
        ("numbers", "done"),
        ("twice", "done"),
        ("four_times", "done"),
    ]
    last = Artifact.open(Path(told["steps"][-1]["path"]))
    assert (last.path / "00001.txt").read_text().split() == ["12", "16", "20"]
    assert told["steps"][-1]["rows"] == {"total": 12, "kept": 12, "dropped": 0, "failed": 0, "reasons": {}}
    assert last.manifest["config"] == {"factor": 2, "pause_s": 0.0}


def test_the_end_says_what_where_how_long_and_what_next(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_cli(command(recipe))
    out = capsys.readouterr().out
    assert "12 = 12 + 0 + 0" in out and "store/doubled/" in out
    assert f"unclip ui --root {recipe.parent / 'root'}" in out
    assert run_cli(command(recipe)) == 0
    assert capsys.readouterr().out.startswith("nothing to do: all 3 steps are finished\n")


def test_a_failing_step_tells_one_line_and_keeps_its_traceback(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = recipe.parent / "root"
    assert run_cli(command(recipe, "--set", "steps.numbers.mode=fail")) == 1
    line = capsys.readouterr().err.strip()
    (record,) = all_records(root)
    log = root / "runs" / record.id / "numbers.log"
    assert line == f"unclip: step numbers failed: ValueError: told to fail (traceback: {log})"
    assert "Traceback" in log.read_text() and "with a second line" in log.read_text()
    assert record.state == "failed" and [s.state for s in record.steps] == ["failed", "pending", "pending"]
    assert run_cli(["status", str(root)]) == 0
    assert "told to fail" in capsys.readouterr().out


def test_a_file_edited_during_the_step_makes_no_artifact(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = recipe.parent / "policy"
    policy.write_text("as it was")
    sets = ["--set", f"steps.numbers.file={policy}", "--set", "steps.numbers.mode=edit"]
    assert run_cli(command(recipe, *sets)) == 1
    assert "was changed while it ran; run again" in capsys.readouterr().err
    assert not list((recipe.parent / "root" / "store").glob("*/*"))
    assert run_cli(command(recipe, *sets)) == 0


def test_sigterm_interrupts_with_130_and_the_next_run_goes_on(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = recipe.parent / "log"
    monkeypatch.setenv("TOY_LOG", str(log))
    slow = ["--set", "steps.numbers.pause_s=0.2"]
    threading.Timer(0.55, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert run_cli(command(recipe, *slow)) == 130
    assert "goes on" in capsys.readouterr().err
    (record,) = all_records(recipe.parent / "root")
    assert record.state == "interrupted" and record.steps[0].state == "interrupted"
    before = len(log.read_text().splitlines())
    assert 1 <= before <= 3
    assert run_cli(command(recipe, *slow)) == 0
    lines = log.read_text().splitlines()
    # The shard that was being made is begun twice; those committed are not.
    assert len(lines) <= 13 and len(set(lines)) == 12


def test_status_shows_an_unfinished_run(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = recipe.parent / "root"
    run_cli(command(recipe, "--only", "numbers"))
    capsys.readouterr()
    assert run_cli(["status", str(root), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["runs"]
    assert [s["state"] for s in told["steps"]] == ["done", "skipped", "skipped"]
    assert told["steps"][0]["summary"]["numbers"] == 12
