"""Exactly-once commit per shard: kill -9 during acquisition, the same command again, the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from infra.store import Draft
from tests.small_crawl import acquire, acquire_config, files_of, free_port, make_site

PATIENCE_S = 90.0


def committed(root: Path) -> dict[str, int]:
    """Committed shards of the only corpus under `root`, with the moment of their record."""
    found = {}
    for folder in (root / "store" / "corpus").glob("*"):
        draft = Draft(path=folder, kind="corpus", address="")
        for name in draft.committed():
            found[name] = (folder / "_shards" / f"{name}.json").stat().st_mtime_ns
    return found


def kill_after_first_shard(root: Path, port: int) -> dict[str, int]:
    """Acquire in a process of its own and kill it, with all it started, once a shard is committed."""
    command = [sys.executable, "-m", "tests.small_crawl", str(root), str(port)]
    driver = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not committed(root):
            assert driver.poll() is None, "the driver ended before it could be killed"
            assert time.monotonic() < deadline, "no shard was committed"
            time.sleep(0.01)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    return committed(root)


def test_killed_and_resumed_is_undisturbed(tmp_path: Path) -> None:
    port = free_port()
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    site = make_site(killed, port)
    before = kill_after_first_shard(killed, port)
    time.sleep(1.0)  # workers of the dead driver notice within a moment; until then they may still commit
    assert not list(killed.glob("store/corpus/*/manifest.json"))
    before = committed(killed)
    total = -(-site.rows.total // acquire_config(port).shard_size)
    assert 0 < len(before) < total

    resumed = acquire(killed, site, acquire_config(port))
    after = {name: (resumed.path / "_shards" / f"{name}.json").stat().st_mtime_ns for name in before}
    assert after == before  # what was committed was not done again
    reference = acquire(undisturbed, site, acquire_config(port))
    assert resumed.content == reference.content
    assert files_of(resumed) == files_of(reference)
