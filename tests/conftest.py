"""Shared fixtures, and the dated table that `make soak` writes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.store import Artifact
from tests.tiny import tiny_annotation, tiny_corpus, tiny_verdict

# One thread: sums in one order, and no threads that wait for each other on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing a test starts may look for an update, a hub or a collector.
os.environ |= {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak-table", type=Path, default=None, help="write a dated table of results here")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several test processes a folder stays together: its modules share fixtures and a Ray instance.

    A scheduler of our own because xdist's `loadgroup` groups nothing under pytest 9.2 (it renames tests,
    and their names are not to be changed any more).
    """
    from xdist.scheduler import LoadScopeScheduling

    class FolderScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.split("/")[1]  # tests/FOLDER/...

    return FolderScheduling(config, log)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that holds the tiny artifacts; read-only by agreement."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def corpus(tiny_root: Path) -> Artifact:
    return tiny_corpus(tiny_root)


@pytest.fixture(scope="session")
def annotation(tiny_root: Path, corpus: Artifact) -> Artifact:
    return tiny_annotation(tiny_root, corpus)


@pytest.fixture(scope="session")
def verdict(tiny_root: Path, corpus: Artifact) -> Artifact:
    return tiny_verdict(tiny_root, corpus)


@pytest.fixture(scope="session", autouse=True)
def no_ray_left_behind() -> Iterator[None]:
    """Tests share one local Ray instance (it takes 5 s to start); it ends with the session."""
    yield
    from infra.ray_session import stop_ray

    stop_ray()


@pytest.fixture(autouse=True)
def no_tracking_server() -> None:
    """MLflow leaves the address it was given in the environment; the next test would take it for its own."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


_OUTCOMES: list[tuple[str, str, float]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        _OUTCOMES.append((report.nodeid, report.outcome, report.duration))


def pytest_sessionfinish(session: pytest.Session) -> None:
    path: Path | None = session.config.getoption("--soak-table")
    if path is None or hasattr(session.config, "workerinput"):  # one of several test processes
        return
    lines = [
        "# Soak: the whole fault and parity matrix",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}. Written by `make soak`.",
        "",
        "| test | outcome | seconds |",
        "|---|---|---|",
        *(f"| `{name}` | {outcome} | {seconds:.1f} |" for name, outcome, seconds in sorted(_OUTCOMES)),
    ]
    path.write_text("\n".join(lines) + "\n")
