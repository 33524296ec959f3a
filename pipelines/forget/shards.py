"""One shard without some of its rows, for each kind of artifact that has rows; it may be done twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.shards import copy_tar_without, write_parquet
from infra.store import Draft, Rows
from pipelines.acquire.facts import facts_file, read_facts, write_facts
from pipelines.acquire.states import DROPPED
from pipelines.aligned import embedding_file, metadata_file
from pipelines.export.shard import account_of, tombstones
from pipelines.forget.rows import FORGOTTEN
from pipelines.judge.verdict import SUCCESS, account

Rewritten = tuple[dict[str, Path], Rows]
"""Temporary files by final name, in the order in which they must be renamed, and the shard's row account."""


def rewrite_shard(draft: Draft, shard: str, keys: Set[str]) -> Rewritten:
    """The shard without the rows of `keys`, ready to be committed."""
    return REWRITE[draft.kind](draft, shard, keys)


def _corpus(draft: Draft, shard: str, keys: Set[str]) -> Rewritten:
    """The tar loses the samples; of their rows and facts the key stays, and the status."""
    tar, name = f"{shard}.tar", f"{shard}.parquet"
    files = {file: draft.temporary(file) for file in (tar, name)}
    copy_tar_without(draft.path / tar, files[tar], keys)
    table = _emptied(pq.read_table(draft.path / name), keys, {"status": FORGOTTEN})
    write_parquet(files[name], table)
    facts = read_facts(draft.path, shard)
    if facts is not None:
        files[facts_file(shard)] = draft.temporary(facts_file(shard))
        write_facts(files[facts_file(shard)], _emptied(facts, keys, {}))
    return files, _account(table["status"].to_pylist())


def _described(draft: Draft, shard: str, keys: Set[str]) -> Rewritten:
    """Annotation and embeddings: metadata and vectors lose the rows.

    The metadata is renamed last: as long as it has the rows, it tells where they were among the vectors.
    """
    table_file = metadata_file(shard)
    metadata = pq.read_table(draft.path / table_file)
    stay = _stay(metadata, keys)
    files = {}
    for name in (embedding_file("img", shard), embedding_file("text", shard)):
        vectors = np.load(draft.path / name, mmap_mode="r", allow_pickle=False)
        files[name] = draft.temporary(name)
        with files[name].open("wb") as stream:
            # Fewer than the metadata: an earlier attempt came this far.
            np.save(stream, vectors[stay] if len(vectors) == len(stay) else vectors)
    files[table_file] = draft.temporary(table_file)
    rest = metadata.filter(pa.array(stay))
    write_parquet(files[table_file], rest)
    known = "status" in rest.column_names
    return files, _account(rest["status"].to_pylist() if known else [SUCCESS] * len(rest))


def _clusters(draft: Draft, shard: str, keys: Set[str]) -> Rewritten:
    name = f"{shard}.parquet"
    table = pq.read_table(draft.path / name)
    rest = table.filter(pa.array(_stay(table, keys)))
    files = {name: draft.temporary(name)}
    write_parquet(files[name], rest)
    return files, Rows(total=len(rest), kept=len(rest))


def _verdict(draft: Draft, shard: str, keys: Set[str]) -> Rewritten:
    """The rows stay, dropped as forgotten."""
    name = f"{shard}.parquet"
    tombstone = {"keep": False, "split": "", "score": None, "weight": 0.0, "duplicate_of": None}
    tombstone |= dict.fromkeys(("reason", "rule", "category"), FORGOTTEN)
    table = _with_tombstones(pq.read_table(draft.path / name), keys, tombstone)
    files = {name: draft.temporary(name)}
    write_parquet(files[name], table)
    return files, account(table)


def _filtered(draft: Draft, shard: str, keys: Set[str]) -> Rewritten:
    """The samples go, from what was kept and from what was rejected; their rows are among the rejected."""
    kept, rejected = (
        pq.read_table(draft.path / n) for n in (f"{shard}.parquet", f"rejected/{shard}.parquet")
    )
    tables = {f"{shard}.parquet": kept.filter(pa.array(_stay(kept, keys)))}
    others = rejected.filter(pa.array(_stay(rejected, keys)))
    named = pa.concat_tables([others, tombstones(rejected.schema, keys)]).sort_by("key")
    tables[f"rejected/{shard}.parquet"] = named
    files = {}
    for name in (f"{shard}.tar", f"rejected/{shard}.tar"):
        if (draft.path / name).is_file():
            files[name] = draft.temporary(name)
            copy_tar_without(draft.path / name, files[name], keys)
    for name, table in tables.items():
        files[name] = draft.temporary(name)
        write_parquet(files[name], table)
    return files, account_of(tables[f"{shard}.parquet"], named)


REWRITE: Mapping[str, Callable[[Draft, str, Set[str]], Rewritten]] = {
    "corpus": _corpus,
    "annotation": _described,
    "embeddings": _described,
    "clusters": _clusters,
    "verdict": _verdict,
    "filtered": _filtered,
}


def _emptied(table: pa.Table, keys: Set[str], tombstone: Mapping[str, Any]) -> pa.Table:
    """The table with nothing but key and `tombstone` in the rows of `keys`."""
    others: dict[str, Any] = dict.fromkeys(set(table.column_names) - {"key"})
    return _with_tombstones(table, keys, {**others, **tombstone})


def _with_tombstones(table: pa.Table, keys: Set[str], tombstone: Mapping[str, Any]) -> pa.Table:
    """The table with `tombstone`, as far as it has those columns, in the rows of `keys`.

    Made anew, value by value: no dictionary of the old file survives.
    """
    rows = table.to_pylist()
    values = {name: value for name, value in tombstone.items() if name in table.column_names}
    for row in rows:
        if row["key"] in keys:
            row |= values
    return pa.Table.from_pylist(rows, schema=table.schema)


def _stay(table: pa.Table, keys: Set[str]) -> np.ndarray:
    return np.array([key not in keys for key in table["key"].to_pylist()], dtype=bool)


def _account(statuses: Iterable[str]) -> Rows:
    reasons = Counter(statuses)
    kept = reasons.pop(SUCCESS, 0)
    dropped = sum(count for reason, count in reasons.items() if reason in DROPPED)
    total = kept + reasons.total()
    failed = reasons.total() - dropped
    return Rows(total=total, kept=kept, dropped=dropped, failed=failed, reasons=dict(sorted(reasons.items())))
