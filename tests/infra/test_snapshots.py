"""The lineage: append-only, each snapshot once, damage named; and shards that are taken over by link."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from infra.snapshots import Lineage, Snapshot
from infra.store import Artifact, Draft, Rows, Store, StoreError, finish

FIRST = "ab" * 32
STEP = {"kind": "make", "version": 1, "config": {}}


def snapshot(address: str, when: float = 1.0) -> Snapshot:
    return Snapshot(address=address, parent=FIRST, why="retry", arguments={"only": ["timeout"]}, when=when)


def test_what_is_written_down_is_read_in_order_and_once(tmp_path: Path) -> None:
    lineage = Lineage(tmp_path, "corpus", FIRST)
    assert lineage.snapshots() == []
    first, second = snapshot("c" * 64), snapshot("d" * 64)
    for one in (first, second, snapshot("c" * 64, when=2.0)):
        lineage.append(one)
    assert Lineage(tmp_path, "corpus", FIRST).snapshots() == [first, second]
    assert [path.name for path in lineage.path.parent.iterdir()] == [lineage.path.name]
    assert list(Store(tmp_path).artifacts()) == []


@pytest.mark.parametrize("line", ['{"address": "c"', '{"address": "c", "unknown": 1}', "[]"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    lineage = Lineage(tmp_path, "corpus", FIRST)
    lineage.append(snapshot("c" * 64))
    with lineage.path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(StoreError, match=f"{lineage.path}, line 2"):
        lineage.snapshots()


def artifact(root: Path) -> Artifact:
    draft = Store(root).draft("numbers", FIRST)
    temporary = draft.temporary("00000.txt")
    temporary.write_text("numbers")
    draft.commit_shard("00000", {"00000.txt": temporary}, Rows(total=1, kept=1))
    return finish(draft, step=STEP, inputs={}, summary={}, seconds=0.0)


def linked(root: Path, former: Artifact) -> Draft:
    draft = Store(root).draft("numbers", "cd" * 32)
    (record,) = former.shards
    draft.link_shard(record, former.path)
    draft.link_shard(record, former.path)  # as after a kill between the files and their record
    return draft


def test_a_linked_shard_is_the_same_file_with_the_same_record(tmp_path: Path) -> None:
    former = artifact(tmp_path)
    draft = linked(tmp_path, former)
    assert list(draft.committed().values()) == former.shards
    assert (draft.path / "00000.txt").samefile(former.path / "00000.txt")
    assert finish(draft, step=STEP, inputs={}, summary={}, seconds=0.0).content == former.content


def test_without_hard_links_the_shard_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = artifact(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    draft = linked(tmp_path, former)
    assert list(draft.committed().values()) == former.shards
    assert not (draft.path / "00000.txt").samefile(former.path / "00000.txt")
