"""The run's side of tracking: start the uploader, warn once, wait a bounded time at the end, never fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from infra.mlflow_client import tracking_uri, without_password
from workflows.uploader import last_error, tracking_folder, unsent

PATIENCE_S = 180.0
"""How long the end of a run waits for MLflow (registering the model is part of it)."""


@dataclass(frozen=True, kw_only=True)
class TrackingOutcome:
    """How tracking ended: `complete`, or why not and what to do."""

    uri: str
    complete: bool
    problem: str = ""


class NoTracker:
    """Tracking left for later: the journals are written all the same, the next tracked run sends them."""

    def start(self) -> None:
        """Nothing to start."""

    def warning(self) -> str:
        """Nothing to warn of."""
        return ""

    def finish(self) -> TrackingOutcome | None:
        """Nothing to wait for."""
        return None


class Tracker(NoTracker):
    """Owns the uploader process of one run."""

    def __init__(self, root: Path, run_id: str, *, patience_s: float = PATIENCE_S) -> None:
        self.root = root
        self.run_id = run_id
        self.patience_s = patience_s
        self.uri = tracking_uri(root)
        self._process: subprocess.Popen[bytes] | None = None
        self._warned = False

    def start(self) -> None:
        """Start the uploader unless it runs; where that fails, tracking is late and the run goes on."""
        if self._process is not None and self._process.poll() is None:
            return
        folder = tracking_folder(self.root)
        command = [sys.executable, "-m", "workflows.uploader", str(self.root), "--follow", self.run_id]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "uploader.log").open("ab") as log:
                self._process = subprocess.Popen(
                    [*command, "--parent", str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C ends the run; the uploader then says KILLED
                    env=os.environ | {"PYTHONPATH": _python_path()},
                )
        except OSError as error:
            print(f"tracking: the uploader cannot be started: {error}", file=sys.stderr)

    def warning(self) -> str:
        """A line to print, once, when sending fails; otherwise nothing."""
        if self._warned or not (error := last_error(self.root)):
            return ""
        self._warned = True
        return (
            f"tracking: {without_password(self.uri)} does not take metrics ({error}); "
            "the run goes on, the journal keeps them"
        )

    def finish(self) -> TrackingOutcome:
        """Wait until everything has arrived, at most `patience_s`."""
        shown = without_password(self.uri)
        if not unsent(self.root, self.uri):
            return TrackingOutcome(uri=shown, complete=True)
        self.start()
        deadline = time.monotonic() + self.patience_s
        while self._process is not None and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if not unsent(self.root, self.uri):
            return TrackingOutcome(uri=shown, complete=True)
        reason = last_error(self.root) or f"not done within {self.patience_s:.0f} s"
        log = tracking_folder(self.root) / "uploader.log"
        return TrackingOutcome(
            uri=shown,
            complete=False,
            problem=f"not all reached MLflow ({reason}; see {log}); the next `unclip run` sends the rest",
        )


def _python_path() -> str:
    here = str(Path(__file__).resolve().parent.parent)
    existing = os.environ.get("PYTHONPATH", "")
    return f"{here}{os.pathsep}{existing}" if existing else here
