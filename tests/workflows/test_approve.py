"""The gate between judging and training: shut until an approval of exactly this verdict is on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from infra.approvals import read_approvals
from infra.digests import digest_of
from infra.shards import write_parquet
from infra.store import Artifact, Rows, Store, StoreError, finish
from pipelines.aligned import read_metadata, shard_names
from pipelines.registry import STEPS
from pipelines.step import Context, Resources, Step, StepConfig, input_of
from pipelines.train.index import build_index
from pipelines.train.stream import Stream
from tests.tiny import tiny_annotation, tiny_corpus
from workflows.cli.main import run_cli
from workflows.plan import State, make_plan
from workflows.recipe import load_recipe


class LoadConfig(StepConfig):
    corpus: str = input_of("corpus")
    embeddings: str = input_of("annotation")
    verdict: str = input_of("verdict")


class Load(Step[LoadConfig, Resources]):
    """Reads the training stream, as every training step begins."""

    kind, produces, version = "load", "loaded", 1
    Config = LoadConfig

    def run(self, context: Context[LoadConfig, Resources]) -> dict[str, Any]:
        index = context.draft.work / "index.arrow"
        build_index(index, *(context.inputs[name] for name in ("corpus", "embeddings", "verdict")))
        context.draft.write_bytes("keys.json", json.dumps(streamed(index)).encode())
        context.fixed_rows.append(Rows(total=0, kept=0))
        return {}


def streamed(index: Path) -> list[str]:
    stream = Stream(index, split="train", seed=0)
    return list(stream.read_in_key_order(0, len(stream)).keys)


def clusters_of(root: Path, annotation: Artifact) -> Artifact:
    """No row is a copy of another."""
    draft = Store(root).draft("clusters", digest_of(annotation.content))
    for shard in shard_names(annotation):
        keys = read_metadata(annotation, shard, ["key"])["key"]
        columns = {"key": keys, "cluster": keys, "rank": np.zeros(len(keys), np.int32), "concept": keys}
        temporary = draft.temporary(shard)
        write_parquet(temporary, pa.table(columns | {"method": [""] * len(keys)}))
        account = Rows(total=len(keys), kept=len(keys))
        draft.commit_shard(shard, {f"{shard}.parquet": temporary}, account)
    return finish(draft, step={"kind": "c", "version": 1, "config": {}}, inputs={}, summary={}, seconds=0.0)


def write_policy(folder: Path, threshold: float, version: int = 1) -> None:
    rule = {"name": "explicit", "category": "sexual", "action": "drop"}
    rule |= {"when": {"score": "explicit_image", "above": threshold}}  # type: ignore[dict-item]
    policy = {"schema_version": 1, "name": "one", "version": version, "owner": "test", "rules": [rule]}
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """judge -> approve -> load over a tiny corpus that is in the root already."""
    monkeypatch.setitem(STEPS, "load", f"{__name__}:Load")
    root = tmp_path / "root"
    corpus = tiny_corpus(root, count=20)
    annotation = tiny_annotation(root, corpus)
    pins = {
        artifact.kind: f"${{artifact:{artifact.kind}/{artifact.address[:20]}}}"
        for artifact in (corpus, annotation, clusters_of(root, annotation))
    }
    write_policy(tmp_path, 0.5)
    steps = {
        "judge": {
            "kind": "judge",
            **pins,
            "policy": "policy.yaml",
            "split": {"train": 1, "validation": 0, "test": 0},
        },
        "approve": {"kind": "approve", "corpus": pins["corpus"], "verdict": "${steps.judge}"},
        "load": {
            "kind": "load",
            "corpus": pins["corpus"],
            "embeddings": pins["annotation"],
            "verdict": "${steps.approve}",
        },
    }
    path = tmp_path / "gated.yaml"
    path.write_text(yaml.safe_dump({"schema_version": 1, "name": "gated", "steps": steps}))
    return path


def run(recipe: Path, root: Path) -> int:
    return run_cli(["run", str(recipe), "--root", str(root), "--no-tracking", "--quiet"])


def states(recipe: Path, root: Path) -> list[State]:
    return [step.state for step in make_plan(load_recipe(recipe), root).steps]


def approve(what: Path | str, root: Path, *more: str) -> int:
    return run_cli(["approve", str(what), "--root", str(root), "--by", "R. Eviewer", *more])


def kept_keys(root: Path) -> list[str]:
    """Keys that the newest verdict of the judge step keeps."""
    verdicts = [a for a in Store(root).artifacts() if a.kind == "verdict" and a.manifest["step"] == "judge"]
    newest = max(verdicts, key=lambda a: a.host["finished_at"])
    tables = [pq.read_table(newest.path / f"{shard}.parquet") for shard in shard_names(newest)]
    return [row["key"] for row in pa.concat_tables(tables).to_pylist() if row["keep"]]


def loaded(root: Path) -> list[Artifact]:
    return [artifact for artifact in Store(root).artifacts() if artifact.kind == "loaded"]


def test_nothing_is_loaded_before_an_approval_and_all_that_is_kept_after(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    assert approve(recipe, root) == 2
    assert "the verdict judge is not made yet" in capsys.readouterr().err
    assert run(recipe, root) == 2  # judges, and stops
    (line,) = capsys.readouterr().err.splitlines()
    assert states(recipe, root) == [State.DONE, State.BLOCKED, State.BLOCKED]
    assert run_cli(["status", str(root)]) == 0
    assert "blocked" in capsys.readouterr().out
    assert run(recipe, root) == 2  # refused by the plan, with the same line
    assert capsys.readouterr().err.splitlines() == [line]
    assert not loaded(root)

    command = line.partition("then run: unclip ")[2].replace("NAME", "R.").split()
    assert command[0] == "approve" and run_cli(command) == 0
    assert "approved by R. on " in capsys.readouterr().out
    assert states(recipe, root) == [State.DONE, State.WILL_RUN, State.WILL_RUN]
    assert run(recipe, root) == 0
    (artifact,) = loaded(root)
    assert json.loads((artifact.path / "keys.json").read_bytes()) == kept_keys(root) != []


def test_the_gate_hands_on_the_very_verdict_and_says_who_opened_it(recipe: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert run(recipe, root) == 2
    assert approve(recipe, root, "--note", "200 drops looked at") == 0
    assert run(recipe, root) == 0
    verdict, gate = sorted(
        (a for a in Store(root).artifacts() if a.kind == "verdict"),
        key=lambda a: a.manifest["step"] == "approve",
    )
    assert gate.content == verdict.content and gate.rows == verdict.rows
    told = gate.summary
    assert (told["approved_by"], told["note"], told["policy"]) == (
        "R. Eviewer",
        "200 drops looked at",
        "one v1",
    )
    assert told["policy_digest"] == json.loads((gate.path / "report.json").read_bytes())["policy"]["digest"]


def test_a_changed_policy_needs_an_approval_of_its_own(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where not one row is judged otherwise, and where only the version was raised."""
    root = tmp_path / "root"
    assert run(recipe, root) == 2 and approve(recipe, root) == 0 and run(recipe, root) == 0
    for threshold, version in ((0.6, 1), (0.6, 2)):
        write_policy(tmp_path, threshold, version)
        assert states(recipe, root) == [State.WILL_RUN] * 3
        assert run(recipe, root) == 2
        assert f"(policy one v{version}, 18 of 20 rows kept) is not approved" in capsys.readouterr().err
        assert approve(recipe, root) == 0 and run(recipe, root) == 0
    assert [approval.policy["version"] for approval in read_approvals(root / "store")] == [1, 1, 2]
    write_policy(tmp_path, 0.5)  # the first one again: approved, and made
    assert states(recipe, root) == [State.DONE] * 3


def test_an_approval_is_written_once_and_never_changed(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    assert run(recipe, root) == 2 and approve(recipe, root) == 0
    (path,) = (root / "store" / "_approvals").iterdir()
    before = path.read_bytes()
    capsys.readouterr()
    assert approve(recipe, root, "--note", "again", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["written"], told["note"]) == (False, "")
    assert [p.read_bytes() for p in path.parent.iterdir()] == [before]
    path.write_text("{")
    with pytest.raises(StoreError, match=r"damaged approval .*000001\.json"):
        read_approvals(root / "store")
    assert approve(recipe, root) == 1
    assert "damaged approval" in capsys.readouterr().err


def test_bad_input_is_one_line(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    assert run(recipe, root) == 2
    for arguments, line in (
        ([str(recipe), "--step", "judge"], "--step judge: is of kind judge, expected approve"),
        (["curate"], "expected one approve step, got none"),
        (["ffffffff"], "verdict ffffffff: 0 match"),
        ([str(recipe), "--by", " "], "--by: expected a name"),
    ):
        capsys.readouterr()
        assert approve(arguments[0], root, *arguments[1:]) == 2
        assert line in capsys.readouterr().err
