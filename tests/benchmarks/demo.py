"""The demo as a whole: wall seconds, seconds per step, peak memory (summed PSS and /dev/shm), and a rerun.

    python -m tests.benchmarks.demo --json [--recipe workflows/recipes/demo.yaml] [--root DIR]

One run (it takes a quarter of an hour), then the same command again, which must do no work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.memory import PeakMemory
from tests.benchmarks.result import print_result

UNCLIP = [sys.executable, "-m", "workflows.cli.main"]


def timed(command: list[str]) -> tuple[float, int, float]:
    """Run a command; wall seconds, exit code, peak memory in GB of its whole process tree."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=sys.stderr)
    with PeakMemory(process.pid) as memory:
        code = process.wait()
    return time.monotonic() - started, code, memory.peak_bytes / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="workflows/recipes/demo.yaml")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--json", action="store_true", help="accepted for uniformity; the last line is JSON")
    arguments = parser.parse_args()
    root = arguments.root or Path(tempfile.mkdtemp(prefix="unclip-demo-"))
    command = [*UNCLIP, "run", arguments.recipe, "--root", str(root)]
    seconds, code, peak_gb = timed(command)
    if code != 0:
        sys.exit(f"the run failed with exit code {code}")
    again, code, _ = timed(command)
    if code != 0:
        sys.exit(f"the second run failed with exit code {code}")
    steps = {}
    for host in sorted(root.glob("store/*/*/host.json")):
        manifest = json.loads((host.parent / "manifest.json").read_bytes())
        steps[f"{manifest['step']}/{host.parent.name[:6]}"] = json.loads(host.read_bytes())["seconds"]
    print_result(
        "demo",
        ours={
            "seconds": round(seconds, 1),
            "peak_gb": round(peak_gb, 2),
            "again_seconds": round(again, 2),
            "steps": steps,
        },
        limit={"seconds": 900, "peak_gb": 8, "again_seconds": 30},
        ratios={"seconds_vs_limit": round(seconds / 900, 3), "memory_vs_limit": round(peak_gb / 8, 3)},
        repeats=1,
        spread={},
    )


if __name__ == "__main__":
    main()
