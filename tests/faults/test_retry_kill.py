"""Kill -9 in the middle of a retry, the same retry again: the same bytes, and nothing asked for twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.store import Artifact, Draft
from tests.small_crawl import acquire, acquire_config, files_of, free_port, make_site
from tests.snapshots import repaired, retry

PATIENCE_S = 300.0


@pytest.mark.soak  # a retry commits as a crawl does: test_acquire_kill.py has one kill of each kind
def test_killed_and_resumed_is_undisturbed(tmp_path: Path) -> None:
    root, port = tmp_path / "root", free_port()
    command = [sys.executable, "-m", "tests.snapshots", str(root), str(port), "1"]
    driver = subprocess.run(command, stderr=subprocess.DEVNULL, timeout=PATIENCE_S)
    assert driver.returncode == -signal.SIGKILL
    time.sleep(2.0)  # workers notice that their driver is dead; until then they may commit what they hold
    site = make_site(root, port)
    corpus = acquire(root, site, acquire_config(port))
    (folder,) = {*(root / "store" / "corpus").iterdir()} - {corpus.path}
    assert not (folder / "manifest.json").exists()
    draft = Draft(path=folder, kind="corpus", address="")
    before = rewritten(corpus, draft)
    assert len(before) > 0

    resumed = retry(root, corpus, repaired(site, root / "repaired"), port)
    assert resumed.path == folder
    after = rewritten(corpus, Draft(path=folder, kind="corpus", address=""))
    assert {name: after[name] for name in before} == before  # nothing committed was done again
    undisturbed = retry(tmp_path / "undisturbed", corpus, repaired(site, root / "repaired"), port)
    assert files_of(resumed) == files_of(undisturbed)
    assert resumed.content == undisturbed.content


def rewritten(corpus: Artifact, draft: Draft) -> dict[str, int]:
    """The committed shards that are not links to the former snapshot's, with the moment of their record."""
    return {
        name: (draft.path / "_shards" / f"{name}.json").stat().st_mtime_ns
        for name in draft.committed()
        if not (draft.path / f"{name}.tar").samefile(corpus.path / f"{name}.tar")
    }
