"""Guarantee 2, for the runner: killed at any moment and run again, the artifacts are the same to the byte."""

from __future__ import annotations

import random
import time

from tests.faults.conftest import Toys, artifact_bytes

KILLS = 6
PAUSE = "steps.numbers.pause_s=0.03", "steps.twice.pause_s=0.03", "steps.four_times.pause_s=0.03"
SLOW = [word for pause in PAUSE for word in ("--set", pause)]


def test_kill_minus_nine_at_random_moments(toys: Toys) -> None:
    undisturbed = toys.folder / "undisturbed"
    started = time.monotonic()
    assert toys.run(*SLOW, root=undisturbed).returncode == 0
    whole = time.monotonic() - started
    toys.log.unlink()
    chance = random.Random(7)
    killed = 0
    for _ in range(KILLS):
        process = toys.start(*SLOW)
        time.sleep(chance.uniform(0.4, 0.95) * whole)
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed >= KILLS // 2, "the kills came too late to mean anything"
    again = toys.run(*SLOW)
    assert again.returncode == 0, again.stderr
    assert artifact_bytes(toys.root) == artifact_bytes(undisturbed)
    # A shard is begun again only if its maker was killed before it was recorded.
    assert len(toys.commits()) <= 12 + killed and len(set(toys.commits())) == 12
