"""A tiny corpus of four shards, a verdict that drops every third fetched row, and the export of both.

Run as a module it exports in a process of its own and kills itself (-9) once it has heard of so many shards:
`python -m tests.exporting ROOT SHARDS`.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pyarrow as pa

from infra.progress import Progress
from infra.shards import write_parquet
from infra.store import Artifact, Store, finish
from pipelines.aligned import read_table, shard_names
from pipelines.export.step import Export, ExportConfig, ExportResources
from pipelines.judge.verdict import account
from tests.annotated import FatalProgress
from tests.small_crawl import run_step
from tests.tiny import tiny_corpus


def export(root: Path, progress: Progress | None = None) -> Artifact:
    """The step as the runner runs it, memoised."""
    corpus = tiny_corpus(root, 40, 32)
    config = ExportConfig(corpus="corpus", verdict="verdict", rejected=True)
    inputs = {"corpus": corpus, "verdict": _verdict(root, corpus)}
    resources = ExportResources(shards_in_flight=2)
    return run_step(root, Export(), config, inputs, resources=resources, progress=progress)


def _verdict(root: Path, corpus: Artifact) -> Artifact:
    address = hashlib.sha256(b"every third").hexdigest()
    if found := Store(root).find("verdict", address):
        return found
    draft = Store(root).draft("verdict", address)
    for shard in shard_names(corpus):
        rows = read_table(corpus, shard, ["key", "status"])
        ends = [_end(number, status) for number, status in enumerate(rows["status"].to_pylist())]
        columns = dict(zip(("keep", "reason", "rule", "category"), zip(*ends, strict=True), strict=True))
        weights = [float(keep) for keep in columns["keep"]]
        table = pa.table({"key": rows["key"], **{k: list(v) for k, v in columns.items()}, "weight": weights})
        temporary = draft.temporary(f"{shard}.parquet")
        write_parquet(temporary, table)
        draft.commit_shard(shard, {f"{shard}.parquet": temporary}, account(table))
    for name in ("report.json", "report.html"):
        draft.write_bytes(name, b"{}\n")
    step = {"kind": "v", "version": 1, "config": {}}
    return finish(draft, step=step, inputs={"corpus": corpus}, summary={}, seconds=0.0)


def _end(number: int, status: str) -> tuple[bool, str, str, str]:
    if status != "success":
        return False, f"failed: {status}", "acquire", "acquire"
    return (False, "drop: test/third", "third", "test") if number % 3 == 0 else (True, "kept", "", "")


if __name__ == "__main__":
    export(Path(sys.argv[1]), FatalProgress(int(sys.argv[2])))
