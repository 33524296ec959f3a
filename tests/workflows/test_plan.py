"""Plans: true about what is done, silent on disk, and complete about what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflows.plan import State, make_plan
from workflows.recipe import load_recipe
from workflows.refusal import Refusal
from workflows.run import Runner
from workflows.tracking import NoTracker


def run(recipe: Path, root: Path, *overrides: str, only: str | None = None, start: str | None = None) -> None:
    loaded = load_recipe(recipe, overrides)
    plan = make_plan(loaded, root, only=only, start=start)
    assert not plan.problems, plan.problems
    Runner(plan, run_id=loaded.run_id(), tracker=NoTracker(), quiet=True).run()


def states(recipe: Path, root: Path, *overrides: str, **selection: str) -> dict[str, State]:
    plan = make_plan(load_recipe(recipe, overrides), root, **selection)
    return {step.node.name: step.state for step in plan.steps}


def test_planning_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    plan = make_plan(load_recipe(recipe), tmp_path / "root")
    assert sorted(tmp_path.rglob("*")) == before
    assert [step.state for step in plan.steps] == [State.WILL_RUN] * 3
    assert plan.total.rows == 12 and plan.total.seconds == 90


def test_done_steps_are_seen_and_a_changed_one_takes_its_followers_along(
    recipe: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    run(recipe, root)
    assert set(states(recipe, root).values()) == {State.DONE}
    changed = states(recipe, root, "steps.twice.factor=3")
    assert changed == {"numbers": State.DONE, "twice": State.WILL_RUN, "four_times": State.WILL_RUN}


def test_only_and_from_refuse_what_lacks_its_inputs(recipe: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    plan = make_plan(load_recipe(recipe), root, only="twice")
    assert plan.problems == ("steps.twice: needs numbers, which is not finished: run that first",)
    run(recipe, root, only="numbers")
    assert states(recipe, root, only="twice") == {
        "numbers": State.DONE,
        "twice": State.WILL_RUN,
        "four_times": State.SKIPPED,
    }
    run(recipe, root, start="twice")
    assert set(states(recipe, root).values()) == {State.DONE}


def test_an_unknown_step_is_refused_with_the_nearest(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"no step 'twcie'.*did you mean 'twice'"):
        make_plan(load_recipe(recipe), tmp_path, only="twcie")
    with pytest.raises(Refusal, match="exclude each other"):
        make_plan(load_recipe(recipe), tmp_path, only="twice", start="twice")


def test_a_steps_own_check_blocks_it_and_its_followers_once(recipe: Path, tmp_path: Path) -> None:
    plan = make_plan(load_recipe(recipe, ["steps.numbers.file=gone.csv"]), tmp_path / "root")
    assert plan.problems == ("steps.numbers: file 'gone.csv' not found",)
    assert [step.state for step in plan.steps] == [State.BLOCKED] * 3


def test_too_little_disk_is_told(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.plan.free_disk_bytes", lambda _: 1_000_000)
    plan = make_plan(load_recipe(recipe), tmp_path / "root")
    assert len(plan.problems) == 1 and "0.0 GB needed, 0.0 GB free" in plan.problems[0]


def test_a_pinned_artifact_is_found_by_the_start_of_its_address(recipe: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    run(recipe, root)
    address = make_plan(load_recipe(recipe), root).steps[0].address
    pin = f"steps.twice.numbers='${{artifact:numbers/{address[:12]}}}'"
    pinned = make_plan(load_recipe(recipe, [pin]), root)
    assert [step.state for step in pinned.steps] == [State.DONE] * 3
    missing = pin.replace(address[:12], "0" * 12)
    plan = make_plan(load_recipe(recipe, [missing]), root)
    assert plan.problems == ("steps.twice: pinned artifact numbers/000000000000 is not in this root",)
