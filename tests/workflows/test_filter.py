"""`unclip filter` over a folder with much that is odd and no error, and over some that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.adopt.source import folder_problems
from tests import filtering
from tests.filtering import COPY, FAILED, LATIN, PLANTED, QUICK, SILENT, files_of, key, members_of
from workflows.cli.main import run_cli

KEPT = [row for row in range(12) if row not in (PLANTED, SILENT, FAILED, COPY)]
REASONS = {
    key(PLANTED): "drop: violent/violent",
    key(SILENT): "drop: caption/empty",
    key(FAILED): "failed: gone",
    key(COPY): "duplicate: exact",
}


def filter_shards(shards: Path, policy: Path, out: Path, *more: str) -> int:
    command = ["filter", str(shards), "--policy", str(policy), "--out", str(out), "--no-tracking", "--quiet"]
    return run_cli([*command, *QUICK, *more])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filtering.write_folder(tmp_path_factory.mktemp("filter") / "shards")


@pytest.fixture(scope="module")
def policy(shards: Path) -> Path:
    return filtering.write_policy(shards.parent / "policy.yaml")


@pytest.fixture(scope="module")
def out(shards: Path, policy: Path) -> Path:
    """Filtered once; tests that filter into it again leave it as it was."""
    folder = shards.parent / "out"
    assert filter_shards(shards, policy, folder) == 0
    return folder


def rows_of(folder: Path) -> list[dict[str, object]]:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]).to_pylist()


def test_kept_samples_are_byte_for_byte_what_they_were(shards: Path, out: Path) -> None:
    for shard in range(filtering.SHARDS):
        name = f"{shard:05d}.tar"
        kept = {key(row) for row in KEPT}
        expected = {n: data for n, data in members_of(shards / name).items() if n.partition(".")[0] in kept}
        assert members_of(out / name) == expected
    assert members_of(out / "00000.tar")[f"{key(LATIN)}.txt"] == filtering.LATIN_BYTES
    assert members_of(out / "00002.tar") == {}


def test_every_input_row_is_there_once_with_its_verdict(shards: Path, out: Path) -> None:
    source = {row["key"]: row for row in rows_of(shards)}
    kept, rejected = rows_of(out), rows_of(out / "rejected")
    assert [row["key"] for row in kept] == [key(row) for row in KEPT]
    for row in kept:
        assert {name: row[name] for name in source[row["key"]]} == source[row["key"]]
        assert row["verdict_reason"] == "kept" and row["verdict_weight"] == 1.0
        assert row["verdict_split"] in ("train", "validation", "test")
    assert {row["key"]: row["verdict_reason"] for row in rejected} == REASONS
    assert all(name == "key" or name.startswith("verdict_") for row in rejected for name in row)
    assert not list((out / "rejected").glob("*.tar"))
    report = json.loads((out / "report.json").read_bytes())
    assert report["funnel"][0]["rows"] == 12 and report["funnel"][-1]["rows"] == len(KEPT)
    assert "violent" in (out / "report.html").read_text()


def test_the_same_command_again_does_nothing_and_says_what_was_odd(
    shards: Path, policy: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert filter_shards(shards, policy, out) == 0
    told = capsys.readouterr().out
    assert told.startswith("nothing to do")
    assert "kept 8 of 12 rows, in 3 shards" in told
    assert "samples without a caption: 1," in told and "captions that are no UTF-8: 1," in told
    assert "empty shards: 1, first 00002" in told
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert {path: time for path, time in after.items() if path.name != ".lock"} == {
        path: time for path, time in before.items() if path.name != ".lock"
    }


def test_rejected_samples_are_written_on_demand_and_removed_again(
    shards: Path, policy: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = files_of(out)
    assert filter_shards(shards, policy, out, "--write-rejected", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"]["dropped"] == 3 and told["rows"]["failed"] == 1 and told["written"]
    source = members_of(shards / "00000.tar")
    wanted = {key(PLANTED), key(SILENT)}
    expected = {n: data for n, data in source.items() if n.partition(".")[0] in wanted}
    expected[f"{key(SILENT)}.txt"] = b""  # every sample has one after adoption
    assert members_of(out / "rejected" / "00000.tar") == expected
    rows = {row["key"]: row for row in rows_of(out / "rejected")}
    assert rows[key(PLANTED)]["caption"] and rows[key(PLANTED)]["verdict_score"] > 0.8
    assert {name: row["verdict_reason"] for name, row in rows.items()} == REASONS
    assert filter_shards(shards, policy, out) == 0
    assert files_of(out) == plain


def test_what_was_filtered_can_be_filtered_again(out: Path, tmp_path: Path) -> None:
    from tests.pipelines.adopt.test_adopt import adopt_one

    assert folder_problems(out) == []
    again = tmp_path / "again"
    again.mkdir()
    for name in ("00001.tar", "00001.parquet"):
        shutil.copyfile(out / name, again / name)
    assert adopt_one(again, "00001") == ""


def test_a_damaged_shard_is_one_line_and_nothing_is_written(
    shards: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(shards, tmp_path / "broken")
    (broken / "00001.tar").write_bytes((broken / "00001.tar").read_bytes()[:3000])
    assert filter_shards(broken, policy, tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 3 shards cannot be adopted" in line and "00001.tar: damaged: cut short" in line
    assert files_of(tmp_path / "out") == {}


def test_bad_input_is_refused_before_any_work(
    shards: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = filtering.write_policy(tmp_path / "unknown.yaml", score="lexicon_violens")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "00000.tar").write_bytes(b"somebody's")
    weights = tmp_path / "open-nsfw.onnx"
    weights.write_bytes(b"not what it was measured with")
    explicit = filtering.write_policy(tmp_path / "explicit.yaml", score="explicit_image")
    changed = json.dumps({"explicit_image": {"weights": str(weights)}})
    everything = filtering.write_policy(tmp_path / "everything.yaml", bound=1.0)
    ours = ("--set", "steps.annotate.scorers=[caption_geometry, lexicon_caption]")
    out = tmp_path / "out"
    for arguments, line in (
        ((shards, everything, out), "no value of 'lexicon_violent' meets this bound"),
        ((shards, everything, out, *ours), "steps.judge: policy 'captions', rules[1].when: no value of "),
        ((shards, unknown, out, *ours), "steps.judge: policy 'captions', rules[1].when.score: unknown score"),
        ((shards, explicit, out, "--set", f"steps.annotate.scorer_files={changed}"), "sha256 is "),
        ((shards, unknown, out), "makes the score 'lexicon_violens' (did you mean 'lexicon_violent'?)"),
        ((shards, tmp_path / "no.yaml", out), "no.yaml' not found"),
        ((tmp_path / "gone", policy, out), f"folder {tmp_path / 'gone'}: no such folder"),
        ((shards, policy, shards), "is the folder of the shards"),
        ((shards, policy, foreign), "holds 00000.tar, which `unclip filter` did not write there"),
        ((shards, policy, out, "--set", "steps.annotate.scorer=[]"), "scorer"),
    ):
        capsys.readouterr()
        assert filter_shards(*arguments) == 2  # type: ignore[arg-type]
        (told,) = capsys.readouterr().err.splitlines()
        assert line in told
    assert files_of(out) == {} and (foreign / "00000.tar").read_bytes() == b"somebody's"


def test_other_weights_are_refused_where_the_shards_are_adopted_already(
    shards: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(out)
    weights = tmp_path / "open-nsfw.onnx"
    weights.write_bytes(b"not what it was measured with")
    explicit = filtering.write_policy(tmp_path / "explicit.yaml", score="explicit_image")
    changed = json.dumps({"explicit_image": {"weights": str(weights)}})
    assert filter_shards(shards, explicit, out, "--set", f"steps.annotate.scorer_files={changed}") == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "sha256 is " in told and files_of(out) == before


@pytest.mark.soak
def test_a_folder_without_one_sample_is_filtered_too(policy: Path, shards: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("00002.tar", "00002.parquet"):
        shutil.copyfile(shards / name, empty / name)
    assert filter_shards(empty, policy, tmp_path / "out") == 0
    assert members_of(tmp_path / "out" / "00002.tar") == {} and rows_of(tmp_path / "out") == []
