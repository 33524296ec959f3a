"""A list of 10 million rows: `unclip plan` of a recipe with it, the survey before a crawl, and a late resume.

    python -m tests.benchmarks.plan_rows --json [--rows 10000000] [--repeats 3]

Seconds, and peak memory of the process tree in GB.  One row in twenty repeats the URL of an earlier one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.memory import PeakMemory
from tests.benchmarks.result import print_result, spread

SHARD_SIZE = 10_000
ROWS_A_GROUP = 500_000
HOSTS = 20_000
REPEATED = 20
LIMIT_S, LIMIT_GB = 60, 1.0


def write_list(path: Path, rows: int) -> None:
    """A list as they are found: about 70 bytes of URL and 50 of caption a row."""
    schema = pa.schema([("url", pa.string()), ("caption", pa.string())])
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, ROWS_A_GROUP):
            numbers = np.arange(start, min(start + ROWS_A_GROUP, rows))
            again = (numbers > 0) & (numbers % REPEATED == 0)
            numbers[again] = rng.integers(0, numbers[again])
            urls = [
                f"https://images-{n % HOSTS}.example/uploads/{n * 2654435761 % 2**32:08x}/{n:09d}-large.jpg"
                for n in numbers.tolist()
            ]
            captions = [
                f"photograph number {n} of a series, with its usual caption" for n in numbers.tolist()
            ]
            writer.write_table(pa.table([urls, captions], schema=schema))


def measured(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds, peak memory in GB and standard output of a command that ends with 0 or 2."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with PeakMemory(process.pid, every_s=0.05) as memory:
        output, _ = process.communicate()
    if process.returncode not in (0, 2):  # 2: so many images do not fit on this disk, and plan says so
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - started, memory.peak_bytes / 1e9, output


def plan(folder: Path) -> tuple[float, float, int]:
    """Seconds, GB, and the rows that the plan expects."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "schema_version: 1\nname: rows\nsteps:\n"
        f"  acquire: {{kind: acquire, url_list: {folder / 'urls.parquet'}, shard_size: {SHARD_SIZE}}}\n"
    )
    command = ["plan", str(recipe), "--root", str(folder / "root"), "--json"]
    seconds, gb, output = measured([sys.executable, "-m", "workflows.cli.main", *command])
    return seconds, gb, json.loads(output)["steps"][0]["rows"]


def itself(part: str, folder: Path) -> tuple[float, float, int]:
    """Seconds, GB and the count of one part below, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.plan_rows", "--part", part, "--folder", str(folder)]
    seconds, gb, output = measured(command)
    return seconds, gb, int(output)


def survey_rows(folder: Path) -> int:
    """Survey the list as `run` does; returns the number of repeated rows."""
    from infra.progress import Progress
    from infra.store import Draft
    from pipelines.acquire.config import Columns
    from pipelines.acquire.reader import open_url_list
    from pipelines.acquire.survey import survey

    url_list = open_url_list(str(folder / "urls.parquet"), Columns())
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        made = Draft(path=Path(draft), kind="corpus", address="")
        found = survey(url_list, made, Progress("survey", quiet=True), find_repeats=True)
        return int(found.repeats.shape[1])


def resume_rows(folder: Path) -> int:
    """Read what is left of the list when all shards but the last are committed; returns its rows."""
    from pipelines.acquire.config import Columns
    from pipelines.acquire.reader import iter_shards, open_url_list

    url_list = open_url_list(str(folder / "urls.parquet"), Columns())
    done = set(range((url_list.rows - 1) // SHARD_SIZE))
    shards = iter_shards(url_list.batches(done, SHARD_SIZE), SHARD_SIZE, done)
    return sum(table.num_rows for _, table in shards)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="accepted for uniformity; the last line is JSON")
    parser.add_argument("--part", choices=["survey", "resume"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(survey_rows(arguments.folder) if arguments.part == "survey" else resume_rows(arguments.folder))
        return
    with tempfile.TemporaryDirectory(prefix="unclip-rows-") as name:
        folder = Path(name)
        write_list(folder / "urls.parquet", arguments.rows)
        size = (folder / "urls.parquet").stat().st_size
        figures: dict[str, float] = {}
        spreads = {}
        for part in ("plan", "survey", "resume"):
            runs = [
                plan(folder) if part == "plan" else itself(part, folder) for _ in range(arguments.repeats)
            ]
            seconds, gb = [round(run[0], 2) for run in runs], [round(run[1], 3) for run in runs]
            spreads |= {f"{part}_seconds": spread(seconds), f"{part}_peak_gb": spread(gb)}
            figures |= {f"{part}_seconds": round(float(np.median(seconds)), 2), f"{part}_peak_gb": max(gb)}
            figures[f"{part}_rows"] = runs[0][2]
    print_result(
        "plan_rows",
        ours={"rows": arguments.rows, "list_bytes": size, **figures},
        limit={"plan_seconds": LIMIT_S, "plan_peak_gb": LIMIT_GB},
        ratios={
            "plan_seconds_vs_limit": round(figures["plan_seconds"] / LIMIT_S, 4),
            "plan_peak_vs_limit": round(figures["plan_peak_gb"] / LIMIT_GB, 4),
        },
        repeats=arguments.repeats,
        spread=spreads,
    )


if __name__ == "__main__":
    main()
