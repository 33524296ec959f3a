"""`unclip judge` and `unclip policy sweep`, as they are called, on a root with stored scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.scores import read_scores
from tests.pipelines.judge.test_change import judged_root, policy_file
from workflows.cli.main import run_cli
from workflows.judging import open_verdict


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judging")
    judged_root(folder / "root", policy_file(folder, 0.6, 0.9))
    return folder / "root"


def files(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_judge_says_what_would_change_and_writes_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(root)
    arguments = ["judge", "--policy", str(policy_file(tmp_path, 0.4, 0.9, version=2)), "--root", str(root)]
    assert run_cli([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["before"]["version"], told["after"]["version"], told["rows"]) == (1, 2, 300)
    assert [group["category"] for group in told["newly_dropped"]] == ["sexual"]
    assert len(told["newly_dropped"][0]["keys"]) == 5
    assert run_cli(arguments) == 0
    text = capsys.readouterr().out
    assert f"kept {told['kept_before']} -> {told['kept_after']} of 300 rows" in text
    assert "nothing was written" in text
    assert files(root) == before


def test_an_unraised_version_is_told(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["judge", "--policy", str(policy_file(tmp_path, 0.4, 0.9)), "--root", str(root)]) == 0
    assert "raise its version" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["judge", "--policy", "gone.yaml"], "file 'gone.yaml' not found"),
        (["judge", "--policy", "{typo}"], "unknown score 'explicit_imag' (did you mean 'explicit_image'?)"),
        (["judge", "--policy", "{broken}"], "not a valid policy: owner: Field required"),
        (["judge", "--policy", "{good}", "--verdict", "ffff"], "verdict ffff: 0 match, expected one of: "),
        (["policy", "sweep", "toxic_toxc"], "unknown score 'toxic_toxc' (did you mean 'toxic_toxic'?)"),
        (["policy", "sweep", "toxic_toxic", "--out", "curve.gif"], "ends in .png, .svg or .html"),
    ],
)
def test_bad_input_is_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    good = policy_file(tmp_path, 0.6, 0.9)
    typo, broken = tmp_path / "typo.yaml", tmp_path / "broken.yaml"
    typo.write_text(good.read_text().replace("explicit_image", "explicit_imag"))
    broken.write_text(good.read_text().replace("owner: test", ""))
    names = {"{good}": good, "{typo}": typo, "{broken}": broken}
    assert run_cli([str(names.get(a, a)) for a in arguments] + ["--root", str(root)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert line in told


def test_a_root_without_a_verdict_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = policy_file(tmp_path, 0.6, 0.9)
    assert run_cli(["judge", "--policy", str(policy), "--root", str(tmp_path)]) == 2
    assert "no verdict in" in capsys.readouterr().err


def test_artifacts_of_other_rows_are_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = shutil.copytree(root, tmp_path / "root")
    path = sorted(mixed.glob("store/verdict/*/*.parquet"))[0]
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(len(table))))), path)
    policy = policy_file(tmp_path, 0.6, 0.9)
    assert run_cli(["judge", "--policy", str(policy), "--root", str(mixed)]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert str(path.parent) in told and f"verdict, shard {path.stem}: key 0 is " in told


def test_a_sweep_marks_the_policys_threshold(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["policy", "sweep", "explicit_image", "--points", "3", "--root", str(root)]) == 0
    (marked,) = [line for line in capsys.readouterr().out.splitlines() if "<- explicit" in line]
    assert marked.split()[0] == "0.6"
    assert run_cli(["policy", "sweep", "explicit_image", "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["marks"] == [
        {"rule": "explicit", "side": "above", "value": 0.6}
    ]


def test_a_sweep_with_labels_gives_rates_at_every_threshold(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = open_verdict(root)
    samples = read_scores(stored.annotation, ["explicit_image"])
    scores = samples.score("explicit_image")
    # Every third sample is labelled; those above .5 belong to the category, and one below.
    rows = range(0, len(scores), 3)
    positive = {row: bool(scores[row] > 0.5) or row == 3 * (len(rows) // 2) for row in rows}
    labels = tmp_path / "labels.csv"
    lines = [f"{samples.keys[row]},sexual,{int(positive[row])},uncertain" for row in rows]
    labels.write_text("\n".join(["key,category,label,chosen_by", *lines]))
    command = ["policy", "sweep", "explicit_image", "--labels", str(labels), "--root", str(root)]
    page = tmp_path / "curve.html"
    assert run_cli([*command, "--json", "--out", str(page)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["category"], told["picked"]) == ("sexual", len(rows))
    (own,) = [point for point in told["points"] if point["threshold"] == 0.6]
    flagged = {row for row in rows if scores[row] > 0.6}
    hits = sum(positive[row] for row in flagged)
    assert (own["recall"]["k"], own["recall"]["n"]) == (hits, sum(positive.values()))
    assert (own["precision"]["k"], own["precision"]["n"]) == (hits, len(flagged))
    for point in told["points"]:
        low, high = point["recall"]["wilson"]
        assert low <= point["recall"]["share"] <= high
    last = told["points"][-1]
    assert last["precision"]["share"] is None, "nothing lies above the highest score"
    assert f"{hits} of {sum(positive.values())}" in page.read_text() and "category sexual" in page.read_text()
    assert run_cli(command) == 0
    text = capsys.readouterr().out
    assert (
        f"{len(rows)} labels are of samples that were picked" in text
        and f"{hits} of {len(flagged)}, " in text
    )


@pytest.mark.parametrize(
    "line, told",
    [("nobody,sexual,1", "line 2: unknown key 'nobody'"), ("{key},sexy,1", "unknown category 'sexy'")],
)
def test_labels_that_fit_no_sweep_are_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    key = read_scores(open_verdict(root).annotation, []).keys[0]
    labels = tmp_path / "labels.csv"
    labels.write_text(f"key,category,label\n{line.format(key=key)}\n")
    command = ["policy", "sweep", "explicit_image", "--labels", str(labels), "--root", str(root)]
    assert run_cli(command) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert told in error
