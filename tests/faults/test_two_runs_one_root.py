"""Two runs on one root: the second refuses, or waits where it was told to; nothing is made twice."""

from __future__ import annotations

import signal
import subprocess
import time

from tests.faults.conftest import Toys

SLOW = ["--set", "steps.numbers.pause_s=0.2"]


def started(toys: Toys) -> subprocess.Popen[str]:
    """A run that has begun to commit."""
    process = toys.start(*SLOW)
    deadline = time.monotonic() + 60
    while not toys.commits() and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def test_the_second_refuses_or_waits(toys: Toys) -> None:
    first = started(toys)
    first.send_signal(signal.SIGSTOP)  # holds the lock for as long as it takes the others to meet it
    refused = toys.run(*SLOW)
    waiting = toys.start(*SLOW, "--wait")
    assert waiting.stderr is not None
    assert waiting.stderr.readline().startswith(f"waiting for process {first.pid} on ")
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=60)
    out, _ = waiting.communicate(timeout=60)

    assert refused.returncode == 2
    assert f"another run holds {toys.root} (process {first.pid} on " in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert first.returncode == waiting.returncode == 0
    assert out.startswith("nothing to do")
    assert len(toys.commits()) == len(set(toys.commits())) == 12


def test_a_killed_run_leaves_no_lock(toys: Toys) -> None:
    first = started(toys)
    first.kill()
    first.communicate()
    assert toys.run(*SLOW).returncode == 0
