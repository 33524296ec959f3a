"""Guarantee 7: what is forgotten reaches no training, evaluation or download, and purged it is nowhere."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.digests import sha256_of_file
from infra.forget import read_records
from infra.store import Artifact
from pipelines.aligned import read_table, shard_names
from pipelines.forget.rows import ForgottenError
from pipelines.train.index import build_index
from pipelines.train.stream import Stream
from pipelines.train_clip import read_features
from tests import annotated, forgetting
from workflows.cli.main import run_cli

HERE = Path(__file__).parent.parent.parent
KEYS = {annotated.key(row) for row in forgetting.FORGOTTEN}
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return forgetting.curated(tmp_path_factory.mktemp("curated"))


@pytest.fixture(scope="module")
def learned(curated: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which a verdict was made, heads were trained and an evaluation lies; copied by each test."""
    root = tmp_path_factory.mktemp("learned")
    inputs = forgetting.make_root(curated, root)
    recipe = forgetting.write_recipe(root, inputs)
    forgetting.write_list(root, inputs["corpus"])
    assert run_cli(["run", str(recipe), "--root", str(root), "--no-tracking", "--quiet"]) == 0
    made = {
        "verdict": only(root, "verdict"),
        "corpus": inputs["corpus"],
        "clip_heads": only(root, "clip_heads"),
    }
    picture = forgetting.images_of(inputs["corpus"])[annotated.key(forgetting.BY_PLACE)]
    forgetting.evaluation(root, made, picture)
    forgetting.embeddings(root, inputs["annotation"])
    return root


@pytest.fixture
def root(learned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(learned, tmp_path / "root"))


def only(root: Path, kind: str) -> Artifact:
    """The one finished artifact of a kind."""
    (manifest,) = (root / "store" / kind).glob("*/manifest.json")
    return Artifact.open(manifest.parent)


def unclip(root: Path, *words: str, code: int = 0, **_: Any) -> None:
    assert run_cli([*words, "--root", str(root)]) == code


def forget(root: Path, *more: str, code: int = 0) -> None:
    unclip(root, "forget", "--list", str(root / "list.csv"), "--quiet", *more, code=code)


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def newest_verdict(root: Path, capsys: pytest.CaptureFixture[str]) -> Artifact:
    """What `unclip run` makes of the recipe now."""
    capsys.readouterr()
    unclip(root, "run", str(root / "recipe.yaml"), "--no-tracking", "--quiet", "--json")
    return Artifact.open(Path(told(capsys)["steps"][0]["path"]))


def streamed(root: Path, verdict: Artifact, work: Path) -> set[str]:
    """Every key that a training or an evaluation would be given."""
    index = work / "index.arrow"
    build_index(index, only(root, "corpus"), only(root, "annotation"), verdict)
    keys: set[str] = set()
    for split in SPLITS:
        stream = Stream(index, split=split, seed=0)
        keys |= set(stream.read_in_key_order(0, len(stream)).keys)
    return keys


def kept(verdict: Artifact) -> set[str]:
    rows = [row for shard in shard_names(verdict) for row in read_table(verdict, shard).to_pylist()]
    return {row["key"] for row in rows if row["keep"]}


def test_what_is_forgotten_reaches_no_stream(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = only(root, "verdict")
    lost = kept(before) & KEYS
    assert len(lost) >= 3 and streamed(root, before, tmp_path) == kept(before)
    capsys.readouterr()
    forget(root, "--json", "--reason", "asked by the owner", "--by", "ann")
    outcome = told(capsys)
    assert outcome["rows"] == {f"corpus/{only(root, 'corpus').path.name}": len(KEYS)}
    assert outcome["not_found"] == [7] and outcome["changes"] == []
    heads = next(use for use in outcome["used"] if use["artifact"].startswith("clip_heads/"))
    assert heads["train"] + heads["held_out"] == len(lost) and len(heads["runs"]) == 1

    # The verdict of before is refused by whoever reads it, and by a plan that pins it.
    with pytest.raises(ForgottenError, match=f"keeps {len(lost)} rows that were forgotten since"):
        build_index(tmp_path / "refused.arrow", only(root, "corpus"), only(root, "annotation"), before)
    with pytest.raises(ForgottenError):
        read_features(only(root, "annotation"), before)
    inputs = {kind: only(root, kind) for kind in ("corpus", "annotation", "clusters", "urls")}
    pin = f"${{artifact:verdict/{before.address[:20]}}}"
    pinned = forgetting.write_recipe(tmp_path, inputs, verdict=pin)
    unclip(root, "plan", str(pinned), code=2)
    assert "steps.clip: verdict" in capsys.readouterr().err

    # The recipe itself judges anew, and says why; nothing before the verdict is made again.
    unclip(root, "plan", str(root / "recipe.yaml"), "--json")
    judge, heads = told(capsys)["steps"]
    assert (judge["state"], judge["why"]) == ("will run", f"{len(KEYS)} rows forgotten")
    assert heads["state"] == "will run"
    after = newest_verdict(root, capsys)
    assert kept(after) == kept(before) - KEYS and after.rows.reasons["forgotten"] == len(KEYS)
    assert streamed(root, after, tmp_path) == kept(after)

    # The same list again changes nothing.
    forget(root, "--json")
    assert told(capsys)["record"] is None and len(read_records(root / "store")) == 1


def test_purged_bytes_are_nowhere_and_the_rest_still_fits(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, annotation = only(root, "corpus"), only(root, "annotation")
    images = forgetting.images_of(corpus)
    marks = [images[key] for key in sorted(KEYS & images.keys())]
    marks += [caption.encode() for caption in forgetting.CAPTIONS]
    marks += [f'"{annotated.url(row)}"'.encode() for row in forgetting.FORGOTTEN]
    marks.append(forgetting.embedding_of(annotation, forgetting.BY_HASH))
    forgetting.leave_unfinished(root, {"corpus": corpus, "annotation": annotation})
    held = forgetting.everything_in(root)
    assert all(mark in held for mark in marks)

    forget(root, "--purge", code=2)  # a trial: it says what it would meet
    assert "add --yes" in capsys.readouterr().err and forgetting.everything_in(root) == held
    forget(root, "--purge", "--yes", "--json", "--by", "ann")
    outcome = told(capsys)
    left = forgetting.everything_in(root)
    assert [mark[:40] for mark in marks if mark in left] == []

    changes = {change["artifact"].partition("/")[0]: change for change in outcome["changes"]}
    assert set(changes) == {"corpus", "annotation", "clusters", "embeddings", "verdict", "evaluation", "urls"}
    assert changes["evaluation"]["removed"] == ["evaluation.html", "grid.png"]
    assert changes["verdict"]["removed"] == ["report.html"]
    assert "[forgotten]" in (only(root, "verdict").path / "report.json").read_text()
    audit = json.loads((root / "store/_forgotten/000001.purged.json").read_bytes())
    assert audit["changes"] == outcome["changes"]
    (record,) = read_records(root / "store")
    assert (record.who, record.purge) == ("ann", True)
    assert (root / "store/prior" / ("f" * 20) / "_work/step-1.safetensors").is_file()
    shutil.rmtree(root / "store/corpus" / ("f" * 20))

    # Addresses and contents stay, so nothing is made again; files and accounts are those on disk.
    for kind, before in (("corpus", corpus), ("annotation", annotation)):
        after = only(root, kind)
        assert (after.address, after.content) == (before.address, before.content)
        assert after.manifest["purged"][0]["record"] == 1
        for shard in after.shards:
            assert {n: sha256_of_file(after.path / n) for n in shard.sha256} == shard.sha256
    after = only(root, "corpus")
    assert after.rows.total == corpus.rows.total and after.rows.reasons["forgotten"] == len(KEYS)
    tombstones = [row for row in forgetting.corpus_rows(after) if row["key"] in KEYS]
    assert {value for row in tombstones for name, value in row.items() if name not in ("key", "status")} == {
        None
    }

    # What is left is aligned: it can be judged and streamed, by the verdict that was there and by a new one.
    purged = only(root, "verdict")
    assert purged.rows.reasons["forgotten"] == len(KEYS)
    verdict = newest_verdict(root, capsys)
    assert streamed(root, purged, tmp_path) == streamed(root, verdict, tmp_path) == kept(verdict)
    assert not kept(verdict) & KEYS


def test_a_purge_that_is_killed_goes_on_to_the_same_bytes(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path(shutil.copytree(root, tmp_path / "whole"))
    forget(whole, "--purge", "--yes")
    command = ["forget", "--list", str(root / "list.csv"), "--purge", "--yes", "--quiet", "--root", str(root)]
    renames = 2  # the record, then a file of the first artifact
    while renames < 60:
        process = subprocess.run(
            [sys.executable, "-m", "tests.forgetting", str(renames), *command], cwd=HERE, timeout=300
        )
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        unclip(root, "plan", str(root / "recipe.yaml"), code=2)
        assert "the purge of forget record 1 was interrupted" in capsys.readouterr().err
        # Each attempt begins where the last one came to, so this walks over every artifact.
        renames += 4
    assert renames > 6 and len(read_records(root / "store")) == 1
    assert purged_bytes(root) == purged_bytes(whole)


def purged_bytes(root: Path) -> dict[str, bytes]:
    """Every file of the store but those with dates in them."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "store").rglob("*"))
        if path.is_file() and path.parent.name != "_forgotten"
    }


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("list.txt", "x", r"expected a list in .csv or .jsonl, got .txt"),
        ("list.csv", "url\n", "is empty"),
        ("list.csv", "link\nhttp://x/\n", "line 2: names nothing"),
        ("list.csv", "sha256\nabc\n", "line 2: sha256: expected 64 hexadecimal digits, got 'abc'"),
        ("list.jsonl", '{"url": 3}\n', "line 1: url: expected text, got 3"),
        ("list.jsonl", '\n{"key": "0001"}\n', "line 2: expected corpus .* and key together"),
        ("list.jsonl", "[1]\n", r"line 1: expected an object, got '\[1\]'"),
        ("list.jsonl", "{\n", "line 1: no JSON"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, why: str
) -> None:
    (tmp_path / "store").mkdir()
    path = tmp_path / name
    path.write_text(text)
    unclip(tmp_path, "forget", "--list", str(path), code=2)
    line = capsys.readouterr().err
    assert line.startswith(f"unclip: {path}") and line.count("\n") == 1
    assert re.search(why, line)
