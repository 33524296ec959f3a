"""Memory of a process tree, as the machine feels it."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil


def tree_bytes(root_pid: int) -> int:
    """Summed PSS of a process and all its descendants, in bytes.

    PSS shares each shared page among its users, so that the sum does not count a library (or Ray's object
    store, mapped by every worker) once per process.
    """
    total = 0
    try:
        processes = [psutil.Process(root_pid), *psutil.Process(root_pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except (OSError, psutil.Error):
            continue
        for line in lines:
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def shared_memory_bytes() -> int:
    """Bytes in use in /dev/shm, whoever holds them."""
    usage = psutil.disk_usage("/dev/shm")
    return int(usage.used)


class PeakMemory:
    """Samples a process tree in a thread and keeps the peak of PSS + /dev/shm growth, in bytes."""

    def __init__(self, root_pid: int, every_s: float = 1.0) -> None:
        self.root_pid = root_pid
        self.every_s = every_s
        self.peak_bytes = 0
        self._before = shared_memory_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(self.every_s):
            shared = max(shared_memory_bytes() - self._before, 0)
            self.peak_bytes = max(self.peak_bytes, tree_bytes(self.root_pid) + shared)
