"""What another policy changes, and the sweep of a threshold, on rows whose scores are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from filters.policy import Policy
from infra.forget import ForgetRecord, write_record
from infra.store import Artifact, Store
from pipelines.aligned import metadata_file, shard_names
from pipelines.judge.change import Group, compare
from pipelines.judge.step import Judge, JudgeConfig
from pipelines.judge.stored import StoredVerdict
from pipelines.judge.sweep import marks, sweep, write_curve
from tests.benchmarks.judge import write_store
from tests.small_crawl import run_step
from workflows.judging import sweep_text

ROWS = 300
SCORES = ("explicit_image", "toxic_toxic")


def policy_file(folder: Path, explicit: float, toxic: float, version: int = 1) -> Path:
    """Two rules: one score each."""
    rules: list[dict[str, Any]] = [
        {"name": name, "category": category, "action": "drop", "when": {"score": score, "above": bound}}
        for name, category, score, bound in (
            ("explicit", "sexual", "explicit_image", explicit),
            ("toxic", "profane", "toxic_toxic", toxic),
        )
    ]
    path = folder / f"policy-{explicit}-{toxic}-{version}.yaml"
    path.write_text(
        yaml.safe_dump(
            {"schema_version": 1, "name": "two", "version": version, "owner": "test", "rules": rules}
        )
    )
    return path


def judged_root(root: Path, policy: Path) -> Artifact:
    """A root with 300 rows of random scores and the verdict of `policy`."""
    inputs = write_store(root, ROWS, SCORES)
    config = JudgeConfig(
        corpus="c", annotation="a", clusters="d", policy=str(policy), keep_duplicates=True, examples=0
    )
    return run_step(root, Judge(), config, inputs)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredVerdict:
    folder = tmp_path_factory.mktemp("change")
    verdict = judged_root(folder / "root", policy_file(folder, 0.6, 0.9))
    return StoredVerdict.of(verdict, Store(folder / "root"))


def scores_of(stored: StoredVerdict) -> dict[str, np.ndarray]:
    tables = [
        pq.read_table(stored.annotation.path / metadata_file(s)) for s in shard_names(stored.annotation)
    ]
    table = pa.concat_tables(tables)
    return {name: table[name].to_numpy() for name in SCORES} | {"key": np.array(table["key"].to_pylist())}


def test_the_same_policy_changes_nothing(stored: StoredVerdict) -> None:
    change = compare(stored.table(), stored.judge(stored.policy).verdict)
    assert (change.newly_dropped, change.newly_kept, change.other_reason, change.other_weight) == (
        [],
        [],
        0,
        0,
    )
    assert change.kept_before == change.kept_after == stored.verdict.rows.kept


def test_moved_thresholds_are_told_by_rule_with_the_first_keys(stored: StoredVerdict, tmp_path: Path) -> None:
    """Stricter on one score, laxer on the other: each group is what arithmetic on the scores says."""
    policy = Policy.from_file(policy_file(tmp_path, 0.4, 1.0, version=2))
    change = compare(stored.table(), stored.judge(policy).verdict, examples=3)
    scores = scores_of(stored)
    explicit, toxic = scores["explicit_image"], scores["toxic_toxic"]
    kept = (explicit <= 0.6) & (toxic <= 0.9)
    drops = scores["key"][kept & (explicit > 0.4)]
    (dropped,) = [group for group in change.newly_dropped if group.rule == "explicit"]
    assert dropped == Group(category="sexual", rule="explicit", rows=len(drops), keys=drops[:3].tolist())
    keeps = scores["key"][(toxic > 0.9) & (explicit <= 0.4)]
    (now_kept,) = [group for group in change.newly_kept if group.rule == "toxic"]
    assert (now_kept.category, now_kept.rows, now_kept.keys) == ("profane", len(keeps), keeps[:3].tolist())
    assert change.kept_after == change.kept_before - change.dropped + change.kept
    # Dropped by the toxic rule before, by the explicit one now.
    assert change.other_reason == int(((toxic > 0.9) & (explicit > 0.4) & (explicit <= 0.6)).sum())


def test_weights_and_missing_rules_are_told() -> None:
    columns = {
        "key": ["a", "b", "c"],
        "keep": [True, True, False],
        "reason": ["kept", "kept", "failed: gone"],
    }
    rules = {"rule": pa.nulls(3, pa.string()), "category": pa.nulls(3, pa.string())}
    before = pa.table(columns | rules | {"weight": [1.0, 1.0, 0.0]})
    after = pa.table(
        columns | rules | {"keep": [True, True, True], "reason": ["kept"] * 3, "weight": [1.0, 0.5, 1.0]}
    )
    change = compare(before, after)
    assert change.other_weight == 1 and change.other_reason == 0
    assert change.newly_kept == [Group(category="(no rule)", rule="(no rule)", rows=1, keys=["c"])]


def test_a_sweep_meets_the_policy_at_its_own_threshold(stored: StoredVerdict) -> None:
    curve = sweep(stored, stored.policy, "explicit_image", None, 5)
    assert curve.side == "above" and [mark.value for mark in marks(stored.policy, "explicit_image")] == [0.6]
    shares = [point.kept_share for point in curve.points]
    assert shares == sorted(shares) and shares[-1] == 1.0
    (own,) = [point for point in curve.points if point.threshold == 0.6]
    scores = scores_of(stored)
    assert own.kept_rows == int((scores["explicit_image"] <= 0.6).sum())
    by_policy = (scores["explicit_image"] <= 0.6) & (scores["toxic_toxic"] <= 0.9)
    assert own.kept_share_with_other_rules == pytest.approx(by_policy.mean(), abs=1e-6)


def test_a_small_bound_of_two_rules_is_marked_with_both(stored: StoredVerdict) -> None:
    data = stored.policy.to_dict()
    data["rules"][0]["when"]["above"] = 1e-9
    data["rules"].append(data["rules"][0] | {"name": "twin"})
    policy = Policy.from_mapping(data, "test")
    curve = sweep(stored, policy, "explicit_image", None, 3)
    assert 1e-9 in [point.threshold for point in curve.points]
    (marked,) = [line for line in sweep_text(curve).splitlines() if "<-" in line]
    assert marked.split()[0] == "1e-09" and marked.endswith("<- explicit, twin")


def test_a_sweep_leaves_out_what_was_forgotten(tmp_path: Path) -> None:
    verdict = judged_root(tmp_path / "root", policy_file(tmp_path, 0.6, 0.9))
    stored = StoredVerdict.of(verdict, Store(tmp_path / "root"))
    before = sweep(stored, stored.policy, "explicit_image", None, 3).rows
    table = pq.read_table(stored.annotation.path / metadata_file(shard_names(stored.annotation)[0]))
    unknown = {"when": "-", "who": "-", "reason": "-", "list_sha256": "-", "purge": False}
    record = ForgetRecord(
        number=1, urls=[], images=[table["sha256"][0].as_py()], rows={}, not_found=[], **unknown
    )
    write_record(tmp_path / "root/store", record)
    assert sweep(stored, stored.policy, "explicit_image", None, 3).rows == before - 1


def test_a_sweep_can_drop_below_and_draws_itself(stored: StoredVerdict, tmp_path: Path) -> None:
    curve = sweep(stored, stored.policy, "toxic_toxic", "below", 4)
    shares = [point.kept_share for point in curve.points]
    assert shares[0] == 1.0 and shares == sorted(shares, reverse=True) and len(shares) == 4
    for suffix, begins in ((".png", b"\x89PNG"), (".html", b"<!doctype html>")):
        write_curve(curve, tmp_path / f"curve{suffix}")
        assert (tmp_path / f"curve{suffix}").read_bytes().startswith(begins)
    page = (tmp_path / "curve.html").read_text()
    assert "<svg" in page and "toxic_toxic" in page and "src=" not in page
