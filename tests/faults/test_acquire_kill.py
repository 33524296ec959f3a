"""Exactly-once commit per shard: kill -9 during acquisition, the same command again, the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from infra.store import Draft
from tests.small_crawl import SHARD_SIZE, acquire, acquire_config, files_of, free_port, make_site

PATIENCE_S = 300.0


def committed(root: Path) -> dict[str, int]:
    """Committed shards of the only corpus under `root`, with the moment of their record."""
    (folder,) = (root / "store" / "corpus").glob("*")
    draft = Draft(path=folder, kind="corpus", address="")
    return {name: (folder / "_shards" / f"{name}.json").stat().st_mtime_ns for name in draft.committed()}


def test_killed_and_resumed_is_undisturbed(tmp_path: Path) -> None:
    port = free_port()
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    site = make_site(killed, port)
    rows = 2 * SHARD_SIZE
    command = [sys.executable, "-m", "tests.small_crawl", str(killed), str(port), str(rows)]
    driver = subprocess.run(command, stderr=subprocess.DEVNULL, timeout=PATIENCE_S)
    assert driver.returncode == -signal.SIGKILL
    time.sleep(2.0)  # workers notice that their driver is dead; until then they may commit what they hold
    assert not list(killed.glob("store/corpus/*/manifest.json"))
    before = committed(killed)
    assert rows <= SHARD_SIZE * len(before) < site.rows.total

    resumed = acquire(killed, site, acquire_config(port))
    after = committed(killed)
    assert {name: after[name] for name in before} == before  # nothing committed was done again
    reference = acquire(undisturbed, site, acquire_config(port))
    assert resumed.content == reference.content
    assert files_of(resumed) == files_of(reference)
