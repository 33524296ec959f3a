"""The command line itself: help, schema, fast start, and a port in use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from workflows.cli.main import cli, run_cli

ROOT = Path(__file__).parent.parent.parent
COMMANDS = ["adopt", "append", "approve", "calibrate", "doctor", "export", "filter", "fit", "forget"]
COMMANDS += ["generate", "import", "inpaint", "interpolate", "judge", "label", "plan", "policy"]
COMMANDS += ["reconstruct", "retry", "run", "schema", "status", "textdiff", "ui", "vary"]


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(cli.commands) == COMMANDS
    for name in cli.commands:
        assert run_cli([name, "--help"]) == 0
        assert f"unclip {name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["run", "--help"]])
def test_light_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from workflows.cli.main import run_cli; code = run_cli(sys.argv[1:]);"
        "heavy = {'torch', 'ray', 'mlflow', 'deepspeed', 'transformers'} & sys.modules.keys();"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    command = [sys.executable, "-c", code, *arguments]
    if arguments == ["status"]:
        command.append(str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_written_or_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    for out in (str(file / "below"), "/proc/unclip"):
        assert run_cli(["generate", "a cat", "--out", out, "--root", str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith(f"unclip: --out {out}: ")
    manifest = tmp_path / "store" / "model" / "0123" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text('{"schema": 1, ')
    assert run_cli(["generate", "a cat", "--root", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("unclip: damaged manifest ")


def test_ui_and_generate_say_what_to_do_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["ui", "--root", str(tmp_path)]) == 2
    assert "nothing is tracked" in capsys.readouterr().err
    assert run_cli(["generate", "a red heart", "--root", str(tmp_path)]) == 2
    assert "no model in" in capsys.readouterr().err
    assert run_cli(["generate", "a red heart", "--root", str(tmp_path), "--model", "0123"]) == 2
    assert "0 models match" in capsys.readouterr().err


def test_schema_accepts_what_the_recipe_loader_accepts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from jsonschema import Draft202012Validator

    from pipelines.registry import STEPS
    from tests.workflows.toys import TOYS

    for kind in set(STEPS) - set(TOYS):
        monkeypatch.delitem(STEPS, kind)
    assert run_cli(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    validator = Draft202012Validator(schema)
    good = {
        "schema_version": 1,
        "name": "x",
        "steps": {
            "a": {"kind": "count", "shape": {"width": 2}},
            "b": {"kind": "double", "numbers": "${steps.a}"},
        },
        "resources": {"a": {"workers": 2}},
    }
    assert validator.is_valid(good)
    for wrong in (
        {"a": {"kind": "count", "shape": {"widht": 2}}},
        {"a": {"kind": "cuont"}},
        {"b": {"kind": "double", "numbers": "a"}},
        {"b": {"kind": "double"}},
    ):
        assert not validator.is_valid(good | {"steps": wrong})
