"""Runs of the toy steps through the real command line, in processes that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflows.toys import RECIPE

HERE = Path(__file__).parent.parent.parent


class Toys:
    """A recipe of toy steps, its root, and the command line that runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.recipe = folder / "toys.yaml"
        self.recipe.write_text(RECIPE)
        self.log = folder / "log"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")}
        self.environment["TOY_LOG"] = str(self.log)

    def start(self, *more: str, tracking: bool = False, root: Path | None = None) -> subprocess.Popen[str]:
        """`unclip run`, started."""
        command = [sys.executable, "-m", "tests.workflows.toys", "run", str(self.recipe), *more]
        command += ["--root", str(root or self.root), *([] if tracking else ["--no-tracking"])]
        return subprocess.Popen(
            command,
            cwd=HERE,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *more: str, tracking: bool = False, root: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`unclip run`, to its end."""
        process = self.start(*more, tracking=tracking, root=root)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def commits(self) -> list[str]:
        """One line for every shard that any execution began to commit."""
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path)


def artifact_bytes(root: Path) -> dict[str, bytes]:
    """Every file of the store but host facts, by its path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "store").rglob("*"))
        if path.is_file() and path.name != "host.json"
    }
