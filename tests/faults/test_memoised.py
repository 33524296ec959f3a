"""Guarantee 1: the same address is not made again, what can change bytes changes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.registry import STEPS
from tests.faults.conftest import Toys
from tests.workflows.toys import TOYS, Count
from workflows.cli.main import run_cli


@pytest.fixture
def run(toys: Toys, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the toys in this process and returns the shards committed for it."""
    for kind, path in TOYS.items():
        monkeypatch.setitem(STEPS, kind, path)
    monkeypatch.setenv("TOY_LOG", str(toys.log))

    def call(*sets: str, recipe: Path | None = None) -> list[str]:
        before = len(toys.commits())
        overrides = [word for override in sets for word in ("--set", override)]
        command = ["run", str(recipe or toys.recipe), "--root", str(toys.root), "--no-tracking", "--quiet"]
        assert run_cli([*command, *overrides]) == 0
        return [line.split("/")[0] for line in toys.commits()[before:]]

    return call


def test_again_does_nothing(run: Any) -> None:
    assert len(run()) == 12
    assert run() == []


def test_resources_change_nothing(run: Any) -> None:
    run()
    assert run("resources.numbers.workers=7") == []


def test_a_changed_config_runs_that_step_and_its_followers(run: Any) -> None:
    run()
    assert run("steps.twice.factor=3") == ["doubled"] * 8
    assert run() == []


def test_equal_content_made_otherwise_ends_the_rerun_there(run: Any) -> None:
    run()
    # Another config, hence another address, but the same numbers: what follows is found.
    assert run("steps.numbers.mode=other") == ["numbers"] * 4


def test_another_recipe_finds_what_it_shares(run: Any, toys: Toys) -> None:
    run()
    other = toys.folder / "other.yaml"
    text = toys.recipe.read_text().replace("name: toys", "name: other").replace("four_times", "again")
    other.write_text(text.replace("twice", "once"))
    assert run(recipe=other) == []


def test_version_and_outside_facts_change_the_address(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    with monkeypatch.context() as patch:
        patch.setattr(Count, "version", 2)
        assert run() == ["numbers"] * 4
    with monkeypatch.context() as patch:
        patch.setattr(Count, "identity", lambda *_: {"policy": "another digest"})
        assert run() == ["numbers"] * 4
    assert run() == []
