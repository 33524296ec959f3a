"""Which rows of a corpus are forgotten, and the gate that nothing forgotten passes.

The gate is the verdict: all that learns from samples or measures with them takes one and uses the rows it
keeps.  So `judge` drops forgotten rows and has the forget list in its address, and whoever reads a verdict
first asks `refuse_forgotten`, which catches one that was made before.  What lies before the gate (corpus,
annotation, clusters) stays as it is, and memoised, until a purge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Set
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool

from filters.block_lists import normalise_url
from infra.forget import ForgetList
from infra.store import Artifact, StoreError
from pipelines.acquire.states import State

FORGOTTEN = str(State.FORGOTTEN)
_COLUMNS = ("key", "url", "sha256", "status")


class ForgottenError(ValueError):
    """A verdict that keeps rows which were forgotten after it was made."""


def url_digest(url: str) -> str:
    """sha256 (hex) of the normalised URL; of the text itself where it is no URL."""
    try:
        text = normalise_url(url)
    except ValueError:
        text = url.strip()
    return hashlib.sha256(text.encode()).hexdigest()


def matches(table: pa.Table, forgotten: ForgetList) -> Bool[np.ndarray, " n"]:
    """Rows of a corpus table whose URL or image (columns `url`, `sha256`, either may be absent) is listed."""
    found = np.zeros(len(table), dtype=bool)
    if forgotten.images and "sha256" in table.column_names:
        found |= _in(table["sha256"].cast(pa.string()), forgotten.images)
    if forgotten.urls and "url" in table.column_names:
        digests = [None if url is None else url_digest(url) for url in table["url"].to_pylist()]
        found |= _in(pa.chunked_array([pa.array(digests, pa.string())]), forgotten.urls)
    return found


def forgotten_rows(table: pa.Table, forgotten: ForgetList) -> Bool[np.ndarray, " n"]:
    """Rows of a corpus table that are listed, or are the tombstones of an earlier purge."""
    tombstones = np.array(table["status"].to_pylist(), dtype=object) == FORGOTTEN
    return matches(table, forgotten) | tombstones


def read_rows(corpus: Path, shard: str) -> pa.Table:
    """What tells whether rows are forgotten: key, status and, where the shard has them, url and sha256."""
    path = corpus / f"{shard}.parquet"
    present = set(pq.read_schema(path).names)
    return pq.read_table(path, columns=[name for name in _COLUMNS if name in present])


def forgotten_keys(corpus: Artifact, forgotten: ForgetList) -> Iterator[tuple[str, list[str]]]:
    """Each shard's name with the keys of its forgotten rows, shards without any left out."""
    for record in corpus.shards:
        table = read_rows(corpus.path, record.name)
        keys = table["key"].filter(pa.array(forgotten_rows(table, forgotten))).to_pylist()
        if keys:
            yield record.name, keys


def count_forgotten(corpus: Artifact) -> int:
    """Forgotten rows of a corpus by the list of the store that it lies in."""
    forgotten = ForgetList.open(corpus.path.parents[1])
    return sum(len(keys) for _, keys in forgotten_keys(corpus, forgotten)) if forgotten else 0


def refuse_forgotten(verdict: Artifact) -> None:
    """Raise `ForgottenError` where the verdict keeps a row that is forgotten by now, and `StoreError` where
    that cannot be told for want of its corpus.  Costs nothing as long as nothing is forgotten."""
    store = verdict.path.parents[1]
    forgotten = ForgetList.open(store)
    if not forgotten:
        return
    source = verdict.manifest["inputs"].get("corpus")
    if source is None:
        raise StoreError(
            f"{verdict.path}: names no corpus, so whether it keeps forgotten rows cannot be told"
        )
    corpus = Artifact.open(store / "corpus" / source["address"][:20])
    kept = 0
    for shard, keys in forgotten_keys(corpus, forgotten):
        judged = pq.read_table(verdict.path / f"{shard}.parquet", columns=["key", "keep"])
        kept += pc.sum(pc.and_(judged["keep"], _in_array(judged["key"], set(keys)))).as_py() or 0
    if kept:
        raise ForgottenError(
            f"verdict {verdict.address[:20]} keeps {kept} rows that were forgotten since; "
            "judge the corpus again, or pin a newer verdict"
        )


def _in_array(values: pa.ChunkedArray, known: Set[str]) -> pa.ChunkedArray:
    return pc.is_in(values, value_set=pa.array(sorted(known), pa.string()))


def _in(values: pa.ChunkedArray, known: Set[str]) -> Bool[np.ndarray, " n"]:
    return np.array(_in_array(values, known).to_pylist(), dtype=bool)
