"""The store: nothing lost, nothing half made, the same name for the same content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.store import Artifact, Draft, Rows, Store, StoreError, finish

ADDRESS = "ab" * 32
STEP = {"kind": "make", "version": 1, "config": {"n": 2}}


def draft_of(root: Path) -> Draft:
    return Store(root).draft("numbers", ADDRESS)


def commit(draft: Draft, name: str, text: str = "x") -> None:
    temporary = draft.temporary(f"{name}.txt")
    temporary.write_text(text)
    rows = Rows(total=3, kept=1, dropped=1, failed=1, reasons={"dull": 1, "gone": 1})
    draft.commit_shard(name, {f"{name}.txt": temporary}, rows)


def done(draft: Draft) -> Artifact:
    return finish(draft, step=STEP, inputs={}, summary={"mean": 1.5}, seconds=0.1)


def test_a_lost_row_cannot_be_written_down() -> None:
    with pytest.raises(StoreError, match="rows lost: 3 came in, but kept 1 \\+ dropped 1 \\+ failed 0 = 2"):
        Rows(total=3, kept=1, dropped=1, reasons={"dull": 1})


def test_a_dropped_row_needs_a_reason() -> None:
    with pytest.raises(StoreError, match="reasons account for 0 rows, but 1"):
        Rows(total=2, kept=1, dropped=1)


def test_accounts_add_up(tmp_path: Path) -> None:
    draft = draft_of(tmp_path)
    commit(draft, "00000")
    commit(draft, "00001")
    rows = done(draft).rows
    assert (rows.total, rows.kept, rows.dropped, rows.failed) == (6, 2, 2, 2)
    assert rows.reasons == {"dull": 2, "gone": 2}


def test_without_a_manifest_there_is_no_artifact(tmp_path: Path) -> None:
    draft = draft_of(tmp_path)
    commit(draft, "00000")
    assert Store(tmp_path).find("numbers", ADDRESS) is None
    made = done(draft)
    found = Store(tmp_path).find("numbers", ADDRESS)
    assert found is not None and found.content == made.content and found.summary == {"mean": 1.5}


def test_a_shard_cut_short_is_done_again(tmp_path: Path) -> None:
    draft = draft_of(tmp_path)
    commit(draft, "00000", "whole")
    commit(draft, "00001", "whole")
    (draft.path / "00001.txt").write_text("who")
    assert set(draft.committed()) == {"00000"}


def test_equal_files_have_equal_content_whatever_the_order_and_the_time(tmp_path: Path) -> None:
    first, second = draft_of(tmp_path / "a"), draft_of(tmp_path / "b")
    for name in ("00000", "00001"):
        commit(first, name)
    for name in ("00001", "00000"):
        commit(second, name)
    (second.work / "checkpoint").write_text("scratch enters no digest")
    assert done(first).content == done(second).content
    assert not (second.path / "_work").exists()


def test_other_files_are_part_of_the_content(tmp_path: Path) -> None:
    first, second = draft_of(tmp_path / "a"), draft_of(tmp_path / "b")
    first.write_bytes("config.json", b"{}")
    second.write_bytes("config.json", b"[]")
    assert done(first).content != done(second).content


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    artifact = done(draft_of(tmp_path))
    (artifact.path / "manifest.json").write_text('{"schema": 1')
    with pytest.raises(StoreError, match="damaged manifest"):
        Artifact.open(artifact.path)
    (artifact.path / "manifest.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(StoreError, match="schema 99, expected 1"):
        Artifact.open(artifact.path)
