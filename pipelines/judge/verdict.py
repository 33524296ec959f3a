"""From scores to verdicts, as tables; no files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.policy import SUCCESS, Policy
from filters.split import assign_split
from infra.store import Artifact
from pipelines.aligned import read_metadata, read_table, require_same_keys, require_same_shards

DUPLICATE = "duplicate"
FACTS = ("key", "url", "caption", "status")
"""Columns of the corpus that the report needs."""


def judged_rows(corpus: Artifact, annotation: Artifact, clusters: Artifact) -> pa.Table:
    """Every input row: shard, key, url, caption, status, cluster, kept_copy, and all scores (null where the
    row was not fetched).

    Raises MisalignedError unless annotation and clusters describe exactly the corpus's fetched rows.
    """
    parts = []
    for shard in require_same_shards(corpus, annotation, clusters):
        rows = read_table(corpus, shard, list(FACTS))
        metadata, groups = read_metadata(annotation, shard), read_table(clusters, shard)
        fetched = rows.filter(pc.equal(rows["status"], SUCCESS))["key"].to_pylist()
        require_same_keys(shard, fetched, metadata["key"].to_pylist(), "annotation")
        require_same_keys(shard, fetched, groups["key"].to_pylist(), "clusters")
        scores = [f.name for f in metadata.schema if pa.types.is_floating(f.type)]
        seen = metadata.select(["key", *scores])
        if "status" in metadata.column_names:
            seen = seen.append_column("annotated", metadata["status"])
        for name in ("cluster", "kept_copy"):
            seen = seen.append_column(name, groups[name])
        parts.append(_beside(rows, seen).append_column("shard", pa.array([shard] * len(rows))))
    table = pa.concat_tables(parts, promote_options="default")
    if "annotated" in table.column_names:
        status = pc.if_else(pc.equal(table["status"], SUCCESS), table["annotated"], table["status"])
        table = table.set_column(table.column_names.index("status"), "status", status)
        table = table.drop_columns(["annotated"])
    return table


def _beside(rows: pa.Table, seen: pa.Table) -> pa.Table:
    """`seen` spread over `rows` by key, null where a row has none; both keep their order."""
    place = {key: i for i, key in enumerate(seen["key"].to_pylist())}
    index = pa.array([place.get(key) for key in rows["key"].to_pylist()], pa.int64())
    for name in seen.column_names[1:]:
        rows = rows.append_column(name, seen[name].take(index))
    return rows


def judge(
    rows: pa.Table, policy: Policy, *, split: Mapping[str, float], seed: int, keep_duplicates: bool
) -> pa.Table:
    """The verdict of each row, in the order of `rows`.

    Of the copies of one picture the policy's survivors compete: the copy the duplicate finder chose, or,
    where that one was dropped, the one with the smallest key.  The split goes by cluster, so that no
    near-duplicate of a test image is ever trained on.
    """
    facts = {*FACTS, "shard", "cluster", "kept_copy"} - {"key", "status"}
    verdicts = policy.decide(rows.drop_columns(sorted(facts & set(rows.column_names))))
    keep = verdicts["keep"].to_numpy().copy()
    clusters = np.array(rows["cluster"].cast(pa.string()).fill_null("").to_pylist(), dtype=object)
    surplus = np.zeros(len(rows), bool)
    if not keep_duplicates:
        surplus = _surplus(rows["key"].to_pylist(), clusters, _flags(rows["kept_copy"]), keep)
    keep &= ~surplus
    splits = np.full(len(rows), "", dtype=object)
    if keep.any():
        splits[keep] = assign_split(list(clusters[keep]), split, seed)
    columns = {name: verdicts[name] for name in verdicts.column_names}
    mask = pa.array(surplus)
    columns["keep"] = pa.array(keep)
    columns["weight"] = pc.if_else(mask, pa.scalar(0.0, pa.float32()), columns["weight"])
    columns["category"] = pc.if_else(mask, DUPLICATE, columns["category"])
    columns["rule"] = pc.if_else(mask, DUPLICATE, columns["rule"])
    columns["reason"] = pc.if_else(mask, f"drop: {DUPLICATE}", columns["reason"])
    return pa.table(columns).append_column("split", pa.array(splits, pa.string()))


def _flags(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.fill_null(False).to_numpy(), bool)


def _surplus(keys: list[str], clusters: np.ndarray, preferred: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Rows that passed the policy but of whose cluster another copy stays."""
    stays: dict[str, int] = {}
    for row in np.flatnonzero(keep):
        rank = (not preferred[row], keys[row])
        best = stays.get(clusters[row])
        if best is None or rank < (not preferred[best], keys[best]):
            stays[clusters[row]] = int(row)
    chosen = np.zeros(len(keys), bool)
    chosen[list(stays.values())] = True
    return keep & ~chosen
