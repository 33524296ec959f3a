"""Progress on long work: one line a step, with rate and ETA, on stderr."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Counts done units of one step and reports rate and remaining time.

    On a terminal the line is rewritten in place; elsewhere a line is printed at most every `every_s`.
    """

    def __init__(
        self, name: str, *, quiet: bool = False, stream: TextIO | None = None, every_s: float = 10.0
    ) -> None:
        self.name = name
        self.quiet = quiet
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.every_s = 0.5 if self.live else every_s
        self.total = 0
        self.done = 0
        self.unit = "rows"
        self.started = self.last = time.monotonic()
        self.skipped = 0

    def start(self, total: int, *, unit: str = "rows", done: int = 0) -> None:
        """Begin a phase of `total` units, of which `done` were finished by an earlier run."""
        self.total, self.done, self.skipped, self.unit = total, done, done, unit
        self.started = time.monotonic()
        self.last = self.started

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count finished units and print when due."""
        self.done += count
        now = time.monotonic()
        if now - self.last >= self.every_s:
            self.last = now
            self.say(self.line(note))

    def line(self, note: str = "") -> str:
        """The current progress line."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        rate = (self.done - self.skipped) / elapsed
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate > 0 and self.total else ""
        share = f"{self.done}/{self.total}" if self.total else f"{self.done}"
        parts = [f"{self.name}: {share} {self.unit}", f"{rate:.1f}/s", left, note]
        return ", ".join(part for part in parts if part)

    def say(self, text: str) -> None:
        """Print a line, unless quiet."""
        if self.quiet:
            return
        if self.live:
            self.stream.write(f"\r\x1b[2K{text}")
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End the live line."""
        if self.live and not self.quiet:
            self.stream.write("\r\x1b[2K")
            self.stream.flush()
