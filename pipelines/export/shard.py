"""One shard split into what the verdict keeps and what it does not.  Runs as one task."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra.shards import read_members, write_members, write_parquet
from infra.store import Artifact, Draft, Rows
from pipelines.aligned import read_table, require_same_keys
from pipelines.forget.rows import FORGOTTEN
from pipelines.judge.verdict import SUCCESS, account

PREFIX = "verdict_"
KEEP = "keep"


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """One shard, and what is written of it."""

    draft: Draft
    corpus: Artifact
    verdict: Artifact
    shard: str
    rejected: bool


def export_shard(job: ExportJob) -> Rows:
    """Write and commit one shard; returns its row account, the verdict's.

    Raises `MisalignedError` where corpus and verdict are of different rows.
    """
    rows, verdict = read_table(job.corpus, job.shard), read_table(job.verdict, job.shard)
    require_same_keys(job.shard, rows["key"].to_pylist(), verdict["key"].to_pylist(), "verdict")
    table = with_verdict(rows, verdict)
    keep = verdict[KEEP]
    forgotten = pc.equal(verdict["reason"], FORGOTTEN)
    fetched = pc.and_(pc.equal(rows["status"], SUCCESS), pc.invert(forgotten))
    files = {name: job.draft.temporary(name) for name in shard_files(job.shard, rejected=job.rejected)}
    source = job.corpus.path / f"{job.shard}.tar"
    _copy_samples(source, files[f"{job.shard}.tar"], _keys(rows, keep))
    write_parquet(files[f"{job.shard}.parquet"], table.filter(keep))
    out = table.filter(pc.invert(keep))
    if job.rejected:
        left = _keys(rows, pc.and_(fetched, pc.invert(keep)))
        _copy_samples(source, files[f"rejected/{job.shard}.tar"], left)
        out = emptied(out, set(_keys(rows, forgotten)))
    else:
        out = out.select(["key", *(name for name in out.column_names if name.startswith(PREFIX))])
    write_parquet(files[f"rejected/{job.shard}.parquet"], out)
    made = account(verdict)
    job.draft.commit_shard(job.shard, files, made)
    return made


def shard_files(shard: str, *, rejected: bool) -> list[str]:
    """Names of a shard's files in the artifact."""
    names = [f"{shard}.tar", f"{shard}.parquet", f"rejected/{shard}.parquet"]
    return [*names, f"rejected/{shard}.tar"] if rejected else names


def with_verdict(rows: pa.Table, verdict: pa.Table) -> pa.Table:
    """The corpus's rows with the verdict's columns, but for `key` and `keep`, as `verdict_...`.

    Columns of those names, of shards that were filtered before, make way.  Every column may hold nulls: what
    is forgotten later leaves some.
    """
    columns = {name: rows[name] for name in rows.column_names if not name.startswith(PREFIX)}
    columns |= {f"{PREFIX}{n}": verdict[n] for n in verdict.column_names if n not in ("key", KEEP)}
    return pa.table(columns)


def emptied(table: pa.Table, keys: Set[str]) -> pa.Table:
    """The table with nothing but key and verdict in the rows of `keys`."""
    if not keys:
        return table
    stay = pa.array([key not in keys for key in table["key"].to_pylist()], pa.bool_())
    for place, field in enumerate(table.schema):
        if field.name != "key" and not field.name.startswith(PREFIX):
            values = pc.if_else(stay, table[field.name], pa.scalar(None, field.type))
            table = table.set_column(place, field.name, values)
    return table


def tombstones(schema: pa.Schema, keys: Set[str]) -> pa.Table:
    """Rows of a `rejected` table for keys that were forgotten after they had been kept or rejected."""
    told: dict[str, Any] = {f"{PREFIX}{name}": FORGOTTEN for name in ("reason", "rule", "category")}
    told |= {f"{PREFIX}split": "", f"{PREFIX}weight": 0.0}
    return pa.Table.from_pylist([{"key": key, **told} for key in sorted(keys)], schema=schema)


def account_of(kept: pa.Table, rejected: pa.Table) -> Rows:
    """Row account of a shard from its two tables."""
    columns = ["reason", "category"]
    parts = [table.select([f"{PREFIX}{name}" for name in columns]) for table in (kept, rejected)]
    keep = pa.array([True] * len(kept) + [False] * len(rejected), pa.bool_())
    return account(pa.concat_tables(parts).rename_columns(columns).append_column(KEEP, keep))


def _keys(rows: pa.Table, chosen: pa.ChunkedArray) -> list[str]:
    keys: list[str] = rows["key"].filter(chosen).to_pylist()
    return keys


def _copy_samples(source: Path, target: Path, keys: list[str]) -> None:
    """The samples of `keys`, every member byte for byte."""
    wanted = set(keys)
    write_members(target, ((key, members) for key, members in read_members(source) if key in wanted))
