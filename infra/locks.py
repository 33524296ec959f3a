"""One writer per root: an advisory lock that the kernel drops when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class RootBusyError(RuntimeError):
    """Another run holds the root."""


@contextmanager
def root_lock(root: Path, *, wait: bool, on_wait: Callable[[str], None] = print) -> Iterator[None]:
    """Hold the root's lock.

    With `wait` the second run queues behind the first (`on_wait` is told once who holds it); without, it
    raises `RootBusyError`.  `flock` is released by the kernel when the process dies, so kill -9 leaves
    nothing to clean up.
    """
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        told = False
        while not _try_lock(descriptor):
            holder = _holder(descriptor)
            if not wait:
                raise RootBusyError(f"another run holds {root} ({holder}); wait for it with --wait")
            if not told:
                on_wait(holder)
                told = True
            time.sleep(0.2)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError):
        return "its holder is just starting"
