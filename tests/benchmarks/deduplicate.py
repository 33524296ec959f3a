"""Semantic duplicates among a million embeddings: time, memory and recall against brute force.

    python -m tests.benchmarks.deduplicate --json [--rows 1000000] [--clusters 1024]

Embeddings of 256 dimensions, float16, in shards of 10,000 on disk: 2,000 loose groups of rows, and a noised
copy of every 20th row.  Recall is of the pairs that 500 of those rows are part of, found by comparing them
with all rows; each number of clusterings is reported.  One run: it takes minutes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from filters.semantic_duplicates import Vectors, brute_force_pairs, clustered_pairs, merged, recall
from tests.benchmarks.memory import PeakMemory
from tests.benchmarks.result import print_result

WIDTH, SHARD, GROUPS = 256, 10_000, 2_000
MIN_COSINE = 0.95
QUERIES, CLUSTERINGS = 500, 5


def write_shards(folder: Path, rows: int) -> list[np.ndarray]:
    """Memory-mapped shards; row 20 k + 1 is row 20 k with noise."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((GROUPS, WIDTH)).astype(np.float32)
    shards = []
    for number in range(-(-rows // SHARD)):
        count = min(SHARD, rows - number * SHARD)
        block = centres[random.integers(GROUPS, size=count)]
        block = block + 0.9 * random.standard_normal((count, WIDTH)).astype(np.float32)
        copies = np.arange(1, count, 20)
        block[copies] = block[copies - 1] + 0.2 * random.standard_normal((len(copies), WIDTH)).astype(
            np.float32
        )
        path = folder / f"img_emb_{number:05d}.npy"
        np.save(path, block.astype(np.float16))
        shards.append(np.load(path, mmap_mode="r"))
    return shards


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=1024)
    parser.add_argument("--json", action="store_true", help="accepted for uniformity; the last line is JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unclip-deduplicate-") as name:
        folder = Path(name)
        vectors = Vectors.of(write_shards(folder, arguments.rows))
        parts, seconds, recalls = [], [], []
        with PeakMemory(os.getpid()) as memory:
            for seed in range(CLUSTERINGS):
                started = time.monotonic()
                parts.append(
                    clustered_pairs(
                        vectors, MIN_COSINE, clusters=arguments.clusters, seed=seed, folder=folder
                    )
                )
                seconds.append(round(time.monotonic() - started, 1))
        true = brute_force_pairs(vectors, np.arange(QUERIES) * 20, MIN_COSINE)
        for count in range(1, CLUSTERINGS + 1):
            found, of = recall(merged(parts[:count])[0], true)
            recalls.append(round(found / of, 4))
    print_result(
        "deduplicate",
        ours={
            "rows": arguments.rows,
            "clusters": arguments.clusters,
            "seconds": round(sum(seconds), 1),
            "seconds_by_clustering": seconds,
            "peak_gb": round(memory.peak_bytes / 1e9, 3),
            "pairs": len(merged(parts)[0]),
            "recall_by_clusterings": recalls,
            "true_pairs": of,
        },
        peers={},
        limit={"recall": 0.97},
        ratios={"recall_of_five_vs_aim": round(recalls[-1] / 0.97, 4)},
        repeats=1,
        spread={},
    )


if __name__ == "__main__":
    main()
