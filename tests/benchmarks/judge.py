"""A changed policy on 1 million stored rows: `unclip judge`, and the judge step that makes the new verdict.

    python -m tests.benchmarks.judge --json [--rows 1000000] [--repeats 3]

Seconds of the whole command, its start included, and peak memory of its process tree in GB.  The rows lie in
shards of 10,000, as acquire writes them, with random scores; one in a hundred failed, one in fifty is a copy.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infra.digests import digest_of
from infra.shards import write_parquet
from infra.store import Artifact, Rows, Store, finish
from pipelines.aligned import metadata_file
from tests.benchmarks.memory import PeakMemory
from tests.benchmarks.result import print_result, spread

SHARD_SIZE = 10_000
POLICY = Path("filters/policies/demo.yaml")
FAILED, COPIES = 100, 50
LIMIT_S = 10


def write_store(root: Path, rows: int, scores: tuple[str, ...]) -> dict[str, Artifact]:
    """Corpus, annotation and clusters as the steps before judge leave them, without images and vectors."""
    store, rng = Store(root), np.random.default_rng(0)
    drafts = {
        kind: store.draft(kind, digest_of([kind, rows])) for kind in ("corpus", "annotation", "clusters")
    }
    for index in range(-(-rows // SHARD_SIZE)):
        count = min(SHARD_SIZE, rows - index * SHARD_SIZE)
        shard, tables = f"{index:05d}", shard_tables(index, count, rng, scores)
        for kind, draft in drafts.items():
            name = metadata_file(shard) if kind == "annotation" else f"{shard}.parquet"
            temporary = draft.temporary(name)
            write_parquet(temporary, tables[kind])
            lost = count - len(tables["annotation"]) if kind == "corpus" else 0
            account = Rows(
                total=len(tables[kind]),
                kept=len(tables[kind]) - lost,
                failed=lost,
                reasons={"gone": lost} if lost else {},
            )
            draft.commit_shard(shard, {name: temporary}, account)
    step = {"kind": "benchmark", "version": 1, "config": {}}
    made: dict[str, Artifact] = {}
    for kind, draft in drafts.items():
        made[kind] = finish(draft, step=step, inputs=dict(made), summary={}, seconds=0.0)
    return made


def shard_tables(
    index: int, count: int, rng: np.random.Generator, scores: tuple[str, ...]
) -> dict[str, pa.Table]:
    """One shard's three tables."""
    keys = np.array([f"{index:05d}{row:04d}" for row in range(count)])
    failed = np.arange(count) % FAILED == FAILED - 1
    fetched = keys[~failed]
    corpus = {
        "key": keys,
        "url": [f"https://images-{index}.example/uploads/{key}-large.jpg" for key in keys],
        "caption": [f"photograph number {key} of a series, with its usual caption" for key in keys],
        "status": np.where(failed, "gone", "success"),
        "sha256": [hashlib.sha256(key.encode()).hexdigest() for key in keys],
    }
    metadata: dict[str, Any] = {"key": fetched, "status": ["success"] * len(fetched)}
    for name in ("caption", "sha256"):
        metadata[name] = list(itertools.compress(corpus[name], ~failed))
    # Cubed, most scores are small, as they are in life.
    metadata |= {name: rng.random(len(fetched), dtype=np.float32) ** 3 for name in scores}
    metadata |= {"image_min_side": np.full(len(fetched), 256, np.float32)}
    metadata |= {"image_aspect": np.ones(len(fetched), np.float32)}
    metadata |= {"caption_length": np.full(len(fetched), 60, np.float32)}
    copy = (np.arange(len(fetched)) % COPIES == COPIES - 1) & (np.arange(len(fetched)) > 0)
    cluster = np.where(copy, np.roll(fetched, 1), fetched)
    clusters = {
        "key": fetched,
        "cluster": cluster,
        "rank": pa.array(copy, pa.int32()),
        "kept_copy": ~copy,
        "method": np.where(copy, "exact", ""),
        "concept": cluster,
    }
    tables = {"corpus": corpus, "annotation": metadata, "clusters": clusters}
    return {kind: pa.table(columns) for kind, columns in tables.items()}


def judge_step(root: Path, policy: Path) -> None:
    """The judge step itself, with its report, on what `write_store` left."""
    from pipelines.judge.step import Judge, JudgeConfig
    from tests.small_crawl import run_step

    inputs = {
        kind: next(a for a in Store(root).artifacts() if a.kind == kind)
        for kind in ("corpus", "annotation", "clusters")
    }
    config = JudgeConfig(corpus="c", annotation="a", clusters="d", policy=str(policy), examples=0)
    run_step(root, Judge(), config, inputs)


def measured(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds, peak memory in GB and standard output of a command that succeeds."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True)
    with PeakMemory(process.pid, every_s=0.1) as memory:
        output, _ = process.communicate()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.monotonic() - started, memory.peak_bytes / 1e9, output


def stricter(path: Path) -> Path:
    """The policy with the thresholds of the lexicon and of explicit images moved."""
    text = (
        POLICY.read_text()
        .replace("above: 0.8}", "above: 0.7}")
        .replace("version: 1\nowner", "version: 2\nowner")
    )
    path.write_text(text)
    return path


def main() -> None:
    from filters.policy import Policy

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="accepted for uniformity; the last line is JSON")
    parser.add_argument("--step", nargs=2, type=Path, metavar=("ROOT", "POLICY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        judge_step(*arguments.step)
        return
    with tempfile.TemporaryDirectory(prefix="unclip-judge-") as name:
        root = Path(name) / "root"
        plain = ("image_min_side", "image_aspect", "caption_length")
        names = tuple(n for n in Policy.from_file(POLICY).score_names() if n not in plain)
        write_store(root, arguments.rows, names)
        changed = stricter(Path(name) / "stricter.yaml")
        step_s, step_gb, _ = measured(["tests.benchmarks.judge", "--step", str(root), str(POLICY)])
        command = ["workflows.cli.main", "judge", "--policy", str(changed), "--root", str(root), "--json"]
        runs = [measured(command) for _ in range(arguments.repeats)]
        told = json.loads(runs[0][2])
    seconds, gb = [round(run[0], 2) for run in runs], [round(run[1], 2) for run in runs]
    median = float(np.median(seconds))
    print_result(
        "judge",
        ours={
            "rows": told["rows"],
            "kept_before": told["kept_before"],
            "kept_after": told["kept_after"],
            "judge_command_seconds": round(median, 2),
            "judge_command_peak_gb": max(gb),
            "judge_step_with_report_seconds": round(step_s, 2),
            "judge_step_with_report_peak_gb": round(step_gb, 2),
        },
        limit={"judge_command_seconds": LIMIT_S},
        ratios={"of_limit": round(median / LIMIT_S, 3)},
        repeats=arguments.repeats,
        spread={"judge_command_seconds": spread(seconds), "judge_command_peak_gb": spread(gb)},
    )


if __name__ == "__main__":
    main()
