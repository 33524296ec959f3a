"""The toy steps, known to the registry for a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.registry import STEPS
from tests.workflows.toys import RECIPE, TOYS


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, path in TOYS.items():
        monkeypatch.setitem(STEPS, kind, path)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "toys.yaml"
    path.write_text(RECIPE)
    return path
