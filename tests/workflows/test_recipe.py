"""Recipes: what is accepted; every refusal says where, what was given, what is allowed, what is near."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflows.plan import address_of
from workflows.recipe import load_recipe
from workflows.recipe_file import read_recipe
from workflows.refusal import Refusal

GOOD = """
schema_version: 1
name: toys
steps:
  four_times: {kind: double, numbers: "${steps.twice}"}
  numbers: {kind: count, shards: 4}
  twice: {kind: double, numbers: "${steps.numbers}"}
resources:
  twice: {workers: 2}
"""

POLICY = """
schema_version: 1
name: mine
version: 1
owner: me
rules:
  - name: blurred
    category: size
    action: drop
    when: {{score: image_min_side, below: {limit}}}
"""
JUDGING = """
schema_version: 1
name: judging
steps:
  judge:
    kind: judge
    corpus: ${artifact:corpus/00112233445566778899}
    annotation: ${artifact:annotation/00112233445566778899}
    clusters: ${artifact:clusters/00112233445566778899}
    policy: mine.yaml
"""


def refusal(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(Refusal) as caught:
        load_recipe(path, overrides)
    return caught.value.problems


def test_steps_come_in_the_order_of_their_wiring(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    recipe = load_recipe(path)
    assert [node.name for node in recipe.nodes] == ["numbers", "twice", "four_times"]
    assert recipe.node("twice").resources.model_dump() == {"workers": 2}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("shards: 4", "shard: 4"), "steps.numbers.shard: unknown key 'shard' (did you mean 'shards'?)"),
        (("shards: 4", "shards: 0"), "steps.numbers.shards: given 0: must be greater than or equal to 1"),
        (("shards: 4", "shape: {widht: 1}"), "steps.numbers.shape.widht: unknown key 'widht' (did you mean"),
        (
            ("kind: count", "kind: cuont"),
            "steps.numbers.kind: unknown step kind 'cuont'; did you mean 'count'",
        ),
        (("kind: count, ", ""), "steps.numbers: kind is required"),
        (("steps.twice", "steps.twcie"), "steps.four_times.numbers: no step 'twcie' (did you mean 'twice'?)"),
        (("${steps.twice}", "twice"), "expected ${steps.NAME} or ${artifact:KIND/ADDRESS}"),
        (("${steps.twice}", "${artifact:corpus/0123456789}"), "pins a corpus, expected numbers or doubled"),
        (("${steps.numbers}", "${steps.four_times}"), "cyclic wiring: "),
        (("shards: 4", "file: '${steps.twice}'"), "steps.numbers.file: '${steps.twice}' is no input"),
        (("name: toys", "naem: toys"), "naem: unknown key 'naem' (did you mean 'name'?)"),
        (("version: 1", "version: 2"), "schema_version: given 2; allowed: 1"),
        (
            ("workers: 2", "wokers: 2"),
            "resources.twice.wokers: unknown key 'wokers' (did you mean 'workers'?)",
        ),
        (
            ("  twice: {workers", "  twise: {workers"),
            "resources.twise: no step 'twise' (did you mean 'twice'?)",
        ),
        (("name: toys", "name: toys\nname: two"), "line 4, column 1: broken YAML: key 'name' is given twice"),
        (("shards: 4}", "shards: 4"), "broken YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_clear_line(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    assert change[0] in GOOD
    problems = refusal(tmp_path, GOOD.replace(*change))
    assert any(expected in problem for problem in problems), problems
    assert all("r.yaml" in problem and "\n" not in problem for problem in problems)


def test_wrong_artifact_kind_names_what_would_fit(tmp_path: Path) -> None:
    text = GOOD.replace('"${steps.twice}"', '"${steps.twice}", also: "${steps.numbers}"')
    assert refusal(tmp_path, text) == [
        f"{tmp_path}/r.yaml: steps.four_times.also: numbers makes numbers, expected doubled; made by: twice"
    ]


def test_cycle_is_printed(tmp_path: Path) -> None:
    problems = refusal(tmp_path, GOOD.replace("${steps.numbers}", "${steps.four_times}"))
    cycle = problems[0].partition("cyclic wiring: ")[2].split(" (")[0].split(" -> ")
    assert cycle[0] == cycle[-1] and set(cycle) == {"twice", "four_times"}


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("shards: 4", "shards: 0, x: 1").replace("steps.twice", "steps.zzz")
    assert len(refusal(tmp_path, text)) == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "steps.nubmers.shards=2",
            "--set steps.nubmers.shards=2: no step 'nubmers' (did you mean 'numbers'?)",
        ),
        ("steps.numbers.shard=2", "--set steps.numbers.shard=2: steps.numbers.shard: unknown key 'shard'"),
        (
            "steps.numbers.shards=x",
            "--set steps.numbers.shards=x: steps.numbers.shards: given 'x': must be a",
        ),
        ("step.numbers.shards=2", "unknown key 'step' (did you mean 'steps'?)"),
        ("steps.numbers.shards", "expected a.b=value"),
        ("steps.numbers.shards.x=1", "steps.numbers.shards is 4, not a mapping"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path: Path, override: str, expected: str) -> None:
    problems = refusal(tmp_path, GOOD, override)
    assert any(expected in problem for problem in problems), problems


def test_overrides_are_yaml_and_change_the_run(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    recipe = load_recipe(path, ["steps.numbers.shape={width: 7}", "steps.numbers.pause_s=1e-3"])
    config = recipe.node("numbers").config.model_dump()
    assert config["shape"] == {"width": 7} and config["pause_s"] == 0.001
    assert recipe.run_id() != load_recipe(path).run_id()


def test_resources_and_description_are_not_part_of_the_identity(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    before = load_recipe(path).run_id()
    assert load_recipe(path, ["resources.twice.workers=9", "description=other words"]).run_id() == before


def test_extends_merges_mappings_and_keeps_origins(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(GOOD)
    top = tmp_path / "top.yaml"
    top.write_text("extends: base.yaml\nname: longer\nsteps: {numbers: {shards: 9}}\n")
    recipe = load_recipe(top)
    assert recipe.name == "longer"
    assert recipe.node("numbers").config.model_dump()["shards"] == 9
    source = read_recipe(top)
    assert source.origin(("steps", "numbers", "shards")) == str(top)
    assert source.origin(("steps", "twice", "numbers")) == str(tmp_path / "base.yaml")


def test_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(Refusal, match=r"in a circle: a\.yaml -> b\.yaml -> a\.yaml"):
        read_recipe(tmp_path / "a.yaml")


def test_the_resolved_recipe_is_a_recipe_of_the_same_identity(tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    recipe = load_recipe(path, ["steps.numbers.shards=3"])
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(recipe.resolved()))
    assert load_recipe(again).run_id() == recipe.run_id()


def test_a_file_beside_the_recipe_is_found_there_and_its_place_enters_no_digest(tmp_path: Path) -> None:
    """The same policy in another folder is the same step; another policy is not."""
    folders = [tmp_path / name for name in ("a", "b", "c")]
    recipes = []
    for folder, limit in zip(folders, (0.5, 0.5, 0.6), strict=True):
        folder.mkdir()
        (folder / "mine.yaml").write_text(POLICY.format(limit=limit))
        (folder / "r.yaml").write_text(JUDGING)
        recipes.append(load_recipe(folder / "r.yaml"))
    config = recipes[0].node("judge").config
    assert config.model_dump()["policy"] == str(folders[0] / "mine.yaml")
    first, moved, changed = (address_of(recipe.node("judge"), {}) for recipe in recipes)
    assert first == moved != changed
    assert recipes[0].run_id() == recipes[1].run_id() != recipes[2].run_id()
