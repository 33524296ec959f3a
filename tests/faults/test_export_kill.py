"""Kill -9 while filtered shards are written: the same command goes on, nothing is lost, nothing twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from infra.store import Draft
from pipelines.aligned import read_table, shard_names
from tests.exporting import export
from tests.filtering import members_of
from tests.small_crawl import files_of
from tests.tiny import tiny_corpus

PATIENCE_S = 180.0


def test_killed_during_the_export_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    root = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.exporting", str(root), "1"]
    driver = subprocess.run(command, stderr=subprocess.DEVNULL, timeout=PATIENCE_S)
    assert driver.returncode == -signal.SIGKILL
    time.sleep(2.0)  # workers notice that their driver is dead; until then they may commit what they hold
    (folder,) = (root / "store" / "filtered").glob("*")
    assert not (folder / "manifest.json").exists()
    before = _committed(folder)
    assert 1 <= len(before) < 4

    resumed, undisturbed = export(root), export(tmp_path / "undisturbed")
    after = _committed(folder)
    assert {shard: after[shard] for shard in before} == before  # what was written is not written again
    assert resumed.content == undisturbed.content
    assert files_of(resumed) == files_of(undisturbed)

    corpus = tiny_corpus(root, 40, 32)
    for shard in shard_names(corpus):
        kept, rejected = (
            read_table(resumed, f"{folder}{shard}", ["key"])["key"].to_pylist()
            for folder in ("", "rejected/")
        )
        assert sorted(kept + rejected) == read_table(corpus, shard, ["key"])["key"].to_pylist()
        samples = [members_of(resumed.path / f"{folder}{shard}.tar") for folder in ("", "rejected/")]
        assert samples[0] | samples[1] == members_of(corpus.path / f"{shard}.tar")
        assert not samples[0].keys() & samples[1].keys()


def _committed(folder: Path) -> dict[str, int]:
    """Committed shards, with the moment of their record."""
    draft = Draft(path=folder, kind="filtered", address="")
    return {name: (folder / "_shards" / f"{name}.json").stat().st_mtime_ns for name in draft.committed()}
