"""One shard split by its verdict: what is written of each row, and what a purge leaves of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.digests import digest_of
from infra.shards import write_parquet
from infra.store import Artifact, Draft, Rows, Store, finish
from pipelines.aligned import MisalignedError
from pipelines.export.shard import ExportJob, export_shard
from pipelines.forget.shards import rewrite_shard
from pipelines.judge.verdict import account
from tests.filtering import members_of
from tests.tiny import tiny_corpus

SHARD = "00000"
ENDS = {
    "1": (False, "drop: violent/words", "words", "violent"),
    "2": (False, "forgotten", "forgotten", "forgotten"),
    "9": (False, "failed: gone", "acquire", "acquire"),
}


def key(row: str | int) -> str:
    return f"{SHARD}{row}"


def verdict_of(root: Path, corpus: Artifact, keys: list[str]) -> Artifact:
    """Row 1 is dropped, row 2 forgotten, row 9 was never fetched."""
    rows = [ENDS.get(k[-1], (True, "kept", None, None)) for k in keys]
    table = pa.table(
        {
            "key": keys,
            "keep": [row[0] for row in rows],
            "reason": [row[1] for row in rows],
            "rule": pa.array([row[2] for row in rows], pa.string()),
            "category": pa.array([row[3] for row in rows], pa.string()),
            "weight": [1.0 if row[0] else 0.0 for row in rows],
        }
    )
    draft = Store(root).draft("verdict", digest_of(keys))
    temporary = draft.temporary(SHARD)
    write_parquet(temporary, table)
    draft.commit_shard(SHARD, {f"{SHARD}.parquet": temporary}, account(table))
    return finish(
        draft,
        step={"kind": "v", "version": 1, "config": {}},
        inputs={"corpus": corpus},
        summary={},
        seconds=0,
    )


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Draft]:
    """Exports the one shard of a tiny corpus into a draft."""
    corpus = tiny_corpus(tmp_path, count=10)
    verdict = verdict_of(tmp_path, corpus, [key(row) for row in range(10)])

    def run(*, rejected: bool) -> Draft:
        draft = Store(tmp_path).draft("filtered", digest_of(rejected))
        rows = export_shard(
            ExportJob(draft=draft, corpus=corpus, verdict=verdict, shard=SHARD, rejected=rejected)
        )
        assert (rows.total, rows.kept, rows.dropped, rows.failed) == (10, 7, 2, 1)
        return draft

    return run


def keys_in(tar: Path) -> set[str]:
    return {name.partition(".")[0] for name in members_of(tar)}


def test_what_is_forgotten_is_exported_nowhere(export: Callable[..., Draft]) -> None:
    draft = export(rejected=True)
    assert keys_in(draft.path / f"{SHARD}.tar") == {key(row) for row in (0, 3, 4, 5, 6, 7, 8)}
    assert keys_in(draft.path / "rejected" / f"{SHARD}.tar") == {key(1)}
    rows = {
        row["key"]: row for row in pq.read_table(draft.path / "rejected" / f"{SHARD}.parquet").to_pylist()
    }
    assert rows[key(1)]["caption"] and rows[key(9)]["url"]
    told = {name for name, value in rows[key(2)].items() if value is not None}
    assert told == {"key", "verdict_reason", "verdict_rule", "verdict_category", "verdict_weight"}


@pytest.mark.parametrize("rejected", [True, False])
def test_a_purge_moves_rows_to_the_rejected_and_may_be_done_twice(
    export: Callable[..., Draft], rejected: bool
) -> None:
    draft = export(rejected=rejected)
    captions = [
        row["caption"]
        for row in pq.read_table(draft.path / f"{SHARD}.parquet").to_pylist()
        if row["key"] == key(3)
    ]
    gone = {key(1), key(3)}
    seen: list[tuple[Rows, dict[str, bytes]]] = []
    for _ in range(2):
        files, rows = rewrite_shard(draft, SHARD, gone)
        draft.commit_shard(SHARD, files, rows)
        seen.append((rows, {name: (draft.path / name).read_bytes() for name in files}))
    assert seen[0] == seen[1]
    rows, held = seen[0]
    assert (rows.total, rows.kept, rows.dropped, rows.failed) == (10, 6, 3, 1)
    assert rows.reasons == {"failed: gone": 1, "forgotten": 3}
    assert not any(caption.encode() in data for caption in captions for data in held.values())
    for name in held:
        if name.endswith(".tar"):
            assert not keys_in(draft.path / name) & gone
    left = pq.read_table(draft.path / "rejected" / f"{SHARD}.parquet")
    assert left["key"].to_pylist() == [key(row) for row in (1, 2, 3, 9)]


def test_a_verdict_of_other_rows_is_refused(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path, count=10)
    verdict = verdict_of(tmp_path, corpus, [key(row) for row in range(1, 10)])
    draft = Store(tmp_path).draft("filtered", "0" * 64)
    job = ExportJob(draft=draft, corpus=corpus, verdict=verdict, shard=SHARD, rejected=False)
    with pytest.raises(MisalignedError, match="verdict, shard 00000: key 0 is '000001', expected '000000'"):
        export_shard(job)
