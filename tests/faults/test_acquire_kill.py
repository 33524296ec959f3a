"""Exactly-once commit per shard: kill -9 during acquisition, the same command again, the same bytes."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from infra.store import Artifact, Draft
from tests.small_crawl import acquire, acquire_config, files_of, free_port, make_site

PATIENCE_S = 300.0
SOAK_SEEDS = [pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20)]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A site, and the corpus an undisturbed run makes of it."""

    root: Path
    port: int
    site: Artifact
    corpus: Artifact

    @property
    def shards(self) -> int:
        return len(self.corpus.shards)

    def copy_of_site(self, root: Path) -> Path:
        """A root with the finished site in it and nothing else."""
        shutil.copytree(self.root / "store" / "urls", root / "store" / "urls")
        return root


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    root, port = tmp_path_factory.mktemp("undisturbed"), free_port()
    site = make_site(root, port)
    return Reference(root=root, port=port, site=site, corpus=acquire(root, site, acquire_config(port)))


def committed(root: Path) -> dict[str, int]:
    """Committed shards of the only corpus under `root`, with the moment of their record."""
    folders = list((root / "store" / "corpus").glob("*"))
    if not folders:
        return {}
    (folder,) = folders
    draft = Draft(path=folder, kind="corpus", address="")
    return {name: (folder / "_shards" / f"{name}.json").stat().st_mtime_ns for name in draft.committed()}


def start(root: Path, reference: Reference) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.small_crawl", str(root), str(reference.port)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The driver's workers with a shard in hand."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked
            if "ray::acquire" in process.name():
                found.append(process)
    return found


def wait_for_shards(root: Path, driver: subprocess.Popen[bytes], count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(committed(root)) < count:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def assert_resumed_is_undisturbed(root: Path, reference: Reference) -> None:
    before = committed(root)
    resumed = acquire(root, reference.site, acquire_config(reference.port))
    after = committed(root)
    assert {name: after[name] for name in before} == before  # nothing committed was done again
    assert resumed.content == reference.corpus.content
    assert files_of(resumed) == files_of(reference.corpus)


@pytest.mark.parametrize("seed", [0, *SOAK_SEEDS])
def test_a_killed_driver_is_resumed(seed: int, reference: Reference, tmp_path: Path) -> None:
    moment = random.Random(seed)
    root = reference.copy_of_site(tmp_path / "root")
    driver = start(root, reference)
    wait_for_shards(root, driver, moment.randrange(1, reference.shards - 4))
    time.sleep(moment.uniform(0, 0.05))
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    time.sleep(2.0)  # workers notice that their driver is dead; until then they may commit what they hold
    assert not list(root.glob("store/corpus/*/manifest.json"))
    assert 1 <= len(committed(root)) < reference.shards
    assert_resumed_is_undisturbed(root, reference)


@pytest.mark.parametrize("seed", [0, *SOAK_SEEDS])
def test_a_killed_worker_costs_no_row(seed: int, reference: Reference, tmp_path: Path) -> None:
    """Ray starts the lost shard again; the run ends as if nothing had happened, with exit code 0."""
    moment = random.Random(seed)
    root = reference.copy_of_site(tmp_path / "root")
    driver = start(root, reference)
    wait_for_shards(root, driver, moment.randrange(0, 3))
    deadline = time.monotonic() + PATIENCE_S
    while not (workers := workers_of(driver)):
        assert driver.poll() is None and time.monotonic() < deadline
    time.sleep(moment.uniform(0, 0.2))
    moment.choice(workers).kill()
    assert driver.wait(timeout=PATIENCE_S) == 0
    assert_resumed_is_undisturbed(root, reference)
