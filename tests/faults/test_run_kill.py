"""Guarantee 2, for the runner: killed at any moment and run again, the artifacts are the same to the byte."""

from __future__ import annotations

import random
import time

from tests.faults.conftest import Toys, artifact_bytes

KILLS = 6
PAUSE = "steps.numbers.pause_s=0.1", "steps.twice.pause_s=0.1", "steps.four_times.pause_s=0.1"
SLOW = [word for pause in PAUSE for word in ("--set", pause)]


def test_kill_minus_nine_at_random_moments(toys: Toys) -> None:
    undisturbed = toys.folder / "undisturbed"
    assert toys.run(*SLOW, root=undisturbed).returncode == 0
    toys.log.unlink()
    chance = random.Random(7)
    killed = 0
    for begun in sorted(chance.sample(range(1, 12), KILLS)):
        process = toys.start(*SLOW)
        while process.poll() is None and len(toys.commits()) < begun:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed >= KILLS // 2, "the kills came too late to mean anything"
    again = toys.run(*SLOW)
    assert again.returncode == 0, again.stderr
    assert artifact_bytes(toys.root) == artifact_bytes(undisturbed)
    # A shard is begun again only if its maker was killed before it was recorded.
    assert len(toys.commits()) <= 12 + killed and len(set(toys.commits())) == 12
