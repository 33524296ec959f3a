"""Exactly-once commit per shard: kill -9 during annotation, the same command again, the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.store import Draft
from tests import annotated
from tests.small_crawl import files_of

PATIENCE_S = 180.0


@pytest.mark.soak  # shards are committed as acquire and export do, which make test kills
def test_killed_and_resumed_is_undisturbed(tmp_path: Path, tiny_root: Path) -> None:
    corpus = annotated.curation_corpus(tmp_path)
    command = [sys.executable, "-m", "tests.annotated", str(tmp_path), "1"]
    driver = subprocess.run(command, stderr=subprocess.DEVNULL, timeout=PATIENCE_S)
    assert driver.returncode == -signal.SIGKILL
    time.sleep(2.0)  # workers notice that their driver is dead; until then they may commit what they hold
    (folder,) = (tmp_path / "store" / "annotation").glob("*")
    assert not (folder / "manifest.json").exists()
    before = _committed(folder)
    assert before

    resumed = annotated.annotate(tmp_path, corpus)
    after = _committed(folder)
    assert {name: after[name] for name in before} == before  # nothing committed was done again
    undisturbed = annotated.annotate(tiny_root, annotated.curation_corpus(tiny_root))
    assert resumed.content == undisturbed.content
    assert files_of(resumed) == files_of(undisturbed)


def _committed(folder: Path) -> dict[str, int]:
    """Committed shards, with the moment of their record."""
    draft = Draft(path=folder, kind="annotation", address="")
    return {name: (folder / "_shards" / f"{name}.json").stat().st_mtime_ns for name in draft.committed()}
