"""Density weights go from the verdict's column into the loss, and the report says what they did."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from infra.journal import Journal
from infra.shards import write_parquet
from infra.store import Artifact, Rows, Store, finish
from pipelines.aligned import read_table, shard_names
from pipelines.judge.step import Judge, JudgeConfig
from pipelines.train.index import build_index
from pipelines.train.stream import Stream
from pipelines.train_clip import TrainClipConfig, fit_heads, read_features
from tests.scored import keys_of, positive, scored_annotation
from tests.small_crawl import run_step
from tests.tiny import tiny_corpus


def each_alone(root: Path, annotation: Artifact) -> Artifact:
    """Clusters in which nothing is like anything else."""
    draft = Store(root).draft("clusters", hashlib.sha256(annotation.content.encode()).hexdigest())
    keys = keys_of(annotation)
    for number, record in enumerate(annotation.shards):
        part = keys[9 * number : 9 * number + record.rows.total]
        columns: dict[str, Any] = {"key": part, "cluster": part, "concept": part, "method": [""] * len(part)}
        columns |= {"rank": pa.array([0] * len(part), pa.int32()), "kept_copy": [True] * len(part)}
        temporary = draft.temporary(f"{record.name}.parquet")
        write_parquet(temporary, pa.table(columns))
        account = Rows(total=len(part), kept=len(part))
        draft.commit_shard(record.name, {f"{record.name}.parquet": temporary}, account)
    step = {"kind": "alone", "version": 1, "config": {}}
    return finish(draft, step=step, inputs={"annotation": annotation}, summary={}, seconds=0.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reweight")


@pytest.fixture(scope="module")
def inputs(root: Path) -> dict[str, Artifact]:
    corpus = tiny_corpus(root)
    annotation = scored_annotation(root, corpus)
    return {"corpus": corpus, "annotation": annotation, "clusters": each_alone(root, annotation)}


def judge(root: Path, inputs: dict[str, Artifact], **config: Any) -> Artifact:
    """By a policy that drops seven of the twelve positives and none of the others."""
    rule = {"name": "alarm", "category": "violent", "action": "drop"}
    rule |= {"when": {"score": "alarm", "above": 0.72}}  # type: ignore[dict-item]
    policy = {"schema_version": 1, "name": "p", "version": 1, "owner": "test", "rules": [rule]}
    path = root / "policy.yaml"
    path.write_text(yaml.safe_dump(policy))
    config = {"split": {"train": 1.0, "validation": 0.0, "test": 0.0}} | config
    wired = JudgeConfig(corpus="c", annotation="a", clusters="d", policy=str(path), **config)
    return run_step(root, Judge(), wired, inputs)


def weights_of(verdict: Artifact) -> dict[str, float]:
    """Of the kept rows."""
    table = pa.concat_tables([read_table(verdict, shard) for shard in shard_names(verdict)])
    return {row["key"]: row["weight"] for row in table.to_pylist() if row["keep"]}


def test_the_few_that_are_left_weigh_more_up_to_the_loss(
    root: Path, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    verdict = judge(root, inputs, reweight={"regularisation": 10.0})
    weights = weights_of(verdict)
    rows = {key: row for row, key in enumerate(keys_of(inputs["annotation"]))}
    rare = np.array([weight for key, weight in weights.items() if positive(rows[key])])
    usual = np.array([weight for key, weight in weights.items() if not positive(rows[key])])
    assert len(rare) == 5 and len(usual) == 24
    assert rare.min() > 1 > usual.mean()
    assert np.mean([*rare, *usual]) == pytest.approx(1, abs=1e-6)

    # The training loop multiplies each loss by the stream's weight (tests/pipelines/train/test_loop.py).
    index = tmp_path / "index.arrow"
    build_index(index, inputs["corpus"], inputs["annotation"], verdict)
    stream = Stream(index, split="train", seed=0)
    batch = stream.read_in_key_order(0, len(stream))
    expected = [weights[key] for key in batch.keys]
    assert batch.weight == pytest.approx(expected, rel=1e-5)


def test_clip_heads_are_trained_with_them_too(root: Path, inputs: dict[str, Artifact]) -> None:
    halves = {"train": 0.4, "validation": 0.3, "test": 0.3}
    verdict = judge(root, inputs, split=halves, reweight={"regularisation": 10.0})
    features = read_features(inputs["annotation"], verdict)
    weight, even = features["train"].weight, replace(features["train"], weight=None)
    assert weight is not None and weight.mean() == pytest.approx(1, abs=1e-5) and weight.std() > 0.1
    config = TrainClipConfig(annotation="a", verdict="v", steps=4, batch=8, dim=4)
    states = [
        fit_heads(features | {"train": train}, config, Journal(root / "clip.jsonl"))[0].state_dict()
        for train in (features["train"], even)
    ]
    assert any(not states[0][name].equal(states[1][name]) for name in states[0])
    assert read_features(inputs["annotation"], judge(root, inputs, split=halves))["train"].weight is None


def test_the_report_says_what_the_weights_did(root: Path, inputs: dict[str, Artifact]) -> None:
    verdict = judge(root, inputs, reweight={"regularisation": 10.0})
    report = json.loads((verdict.path / "report.json").read_bytes())
    told = report["reweighting"]
    assert (told["samples_before"], told["samples_kept"]) == (36, 29)
    assert told["classifier_auc"] > 0.8 and told["effective_samples"] < 29
    assert all("share_weighted" in row for row in report["terms"])
    assert verdict.summary["reweighting_classifier_auc"] == told["classifier_auc"]
    assert "Kept samples were weighted" in (verdict.path / "report.html").read_text()


def test_it_is_off_by_default(root: Path, inputs: dict[str, Artifact]) -> None:
    verdict = judge(root, inputs)
    assert set(weights_of(verdict).values()) == {1.0}
    report = json.loads((verdict.path / "report.json").read_bytes())
    assert report["reweighting"] is None
    assert "Kept samples were weighted" not in (verdict.path / "report.html").read_text()


def test_another_setting_is_another_verdict(root: Path, inputs: dict[str, Artifact]) -> None:
    mild, strong = (judge(root, inputs, reweight={"regularisation": strength}) for strength in (1000.0, 10.0))
    assert mild.address != strong.address
    assert max(weights_of(mild).values()) < max(weights_of(strong).values())
