"""Guarantee 6: wrong input gets one clear line and exit 2, before any work and without a trace on disk."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.registry import STEPS
from tests.workflows.toys import RECIPE, TOYS
from workflows.cli.main import run_cli

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Expects `unclip COMMAND RECIPE` to be refused with one line, which it returns, and nothing written."""
    for kind, path in TOYS.items():
        monkeypatch.setitem(STEPS, kind, path)
    root = tmp_path / "root"

    def call(text: str | None, *more: str, command: str = "run") -> str:
        recipe = tmp_path / "r.yaml"
        if text is not None:
            recipe.write_text(text)
        where = [] if "--root" in more else ["--root", str(root)]
        assert run_cli([command, str(recipe), *where, *more]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert not (root / "store").exists() and not (root / "runs").exists()
        return lines[0]

    return call


def test_recipe_missing(refused: Refused) -> None:
    assert "r.yaml: no such file; packaged recipes: curate, demo, " in refused(None)


def test_yaml_broken(refused: Refused) -> None:
    line = refused("schema_version: 1\nsteps:\n  a: {kind: [count\n")
    assert "r.yaml, line 4, column 1: broken YAML: " in line and "begun in line 3" in line


def test_no_mapping(refused: Refused) -> None:
    assert "expected a mapping" in refused("- a\n- b\n")


def test_unknown_key(refused: Refused) -> None:
    line = refused(RECIPE.replace("shards: 4", "shrads: 4"))
    assert "steps.numbers.shrads: unknown key 'shrads' (did you mean 'shards'?)" in line


@pytest.mark.parametrize("command", ["plan", "run"])
def test_unknown_step(refused: Refused, command: str) -> None:
    assert "no step 'nubmers' (did you mean 'numbers'?)" in refused(
        RECIPE.replace("steps.numbers", "steps.nubmers"), command=command
    )
    assert "no step 'twcie' (did you mean 'twice'?)" in refused(RECIPE, "--only", "twcie", command=command)


def test_cyclic_wiring(refused: Refused) -> None:
    line = refused(RECIPE.replace("${steps.numbers}", "${steps.four_times}"))
    assert "cyclic wiring: " in line and "twice -> four_times" in line


def test_wrong_option(refused: Refused) -> None:
    assert "No such option" in refused(RECIPE, "--onyl", "twice")


def url_list(folder: Path, columns: dict[str, list[str]]) -> str:
    path = folder / "urls.parquet"
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), path)
    return f"schema_version: 1\nname: x\nsteps:\n  acquire: {{kind: acquire, url_list: {path}}}\n"


@pytest.mark.parametrize("command", ["plan", "run"])
def test_url_list_without_url_column(refused: Refused, tmp_path: Path, command: str) -> None:
    line = refused(url_list(tmp_path, {"link": ["http://x/a.png"], "caption": ["a"]}), command=command)
    assert "steps.acquire: " in line and "urls.parquet" in line and "url" in line and "link" in line


def test_empty_url_list(refused: Refused, tmp_path: Path) -> None:
    line = refused(url_list(tmp_path, {"url": [], "caption": []}))
    assert "steps.acquire: " in line and "empty" in line


@pytest.mark.parametrize("command", ["plan", "run"])
def test_root_that_cannot_be_written(refused: Refused, tmp_path: Path, command: str) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "is a file, not a folder" in refused(RECIPE, "--root", str(file), command=command)
    assert "holds files" in refused(RECIPE, "--root", "/proc/unclip", command=command)


def test_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run_cli(["ui", "--root", str(tmp_path), "--port", port]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_plan_lists_every_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, path in TOYS.items():
        monkeypatch.setitem(STEPS, kind, path)
    monkeypatch.setattr("workflows.plan.available_memory_bytes", lambda: 10**8)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE + "  more: {kind: count, file: gone.csv}\n")
    assert run_cli(["plan", str(recipe), "--root", str(tmp_path / "root")]) == 2
    told = capsys.readouterr()
    assert "blocked" in told.out and "cannot run: 2 problem(s)" in told.out
    assert [line.partition(": ")[2][:14] for line in told.err.splitlines()] == [
        "steps.more: fi",
        "memory: 0.1 GB",
    ]
