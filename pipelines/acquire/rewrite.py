"""One shard of the next snapshot: rows in some states are fetched again, the others stay as they are."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.shards import read_members, sample_members, write_members
from infra.store import Draft
from pipelines.acquire.config import VERIFY_HASH, AcquireConfig, AcquireResources
from pipelines.acquire.door import DoorSource
from pipelines.acquire.facts import SCHEMA, Facts, facts_file, facts_table, read_facts
from pipelines.acquire.shard import ShardJob, commit_shard, fetch_samples, input_columns, output_schema


class OtherColumnsError(ValueError):
    """A former shard whose columns are not those that this version writes."""


@dataclass(frozen=True, kw_only=True)
class RewriteJob:
    """A shard of the snapshot in the folder `former`, whose rows in the states `only` are fetched again."""

    draft: Draft
    name: str
    former: Path
    only: frozenset[str]
    config: AcquireConfig
    resources: AcquireResources
    door: DoorSource
    origin: tuple[str, int] | None = None


def rewrite_shard(job: RewriteJob) -> int:
    """Fetch, decode and commit one shard anew; returns how many of its rows were fetched.

    The members of kept samples are carried over byte for byte.  Raises `OtherColumnsError` where the former
    shard was written with other columns.
    """
    cv2.setNumThreads(1)  # parallelism is across shards and decode threads
    former = pq.read_table(job.former / f"{job.name}.parquet")
    asked = pc.is_in(former["status"], value_set=pa.array(sorted(job.only)))
    again, kept = former.filter(asked), former.filter(pc.invert(asked))
    former_facts = _facts(job)
    inputs = again.select(input_columns(former.schema)).append_column(
        VERIFY_HASH, former_facts.filter(asked)["expected_hash"]
    )
    _require_same_columns(job, former.schema, output_schema(inputs.schema, job.config))
    rows: list[dict[str, Any]] = []
    facts: list[Facts] = []
    fetched = fetch_samples(
        ShardJob(
            draft=job.draft,
            index=int(job.name),
            table=inputs,
            keys=tuple(again["key"].to_pylist()),
            config=job.config,
            resources=job.resources,
            door=job.door,
            origin=job.origin,
        ),
        rows,
        facts,
    )
    tar = job.draft.temporary(f"{job.name}.tar")
    carried = read_members(job.former / f"{job.name}.tar")
    write_members(tar, heapq.merge(carried, map(sample_members, fetched), key=itemgetter(0)))
    table = pa.concat_tables([kept, pa.Table.from_pylist(rows, schema=former.schema)])
    # One chunk, as acquire writes it: where the rows were cut must not show in the bytes.
    table = table.sort_by("key").combine_chunks()
    all_facts = pa.concat_tables([former_facts.filter(pc.invert(asked)), facts_table(facts)])
    commit_shard(job.draft, job.name, tar, table, all_facts.sort_by("key").combine_chunks())
    return again.num_rows


def _facts(job: RewriteJob) -> pa.Table:
    facts = read_facts(job.former, job.name)
    if facts is None or not facts.schema.equals(SCHEMA):
        raise OtherColumnsError(
            f"{job.former / facts_file(job.name)}: expected the columns {_told(SCHEMA)}, got "
            f"{'no file' if facts is None else _told(facts.schema)}; "
            "it was written by another version: run acquire anew"
        )
    return facts


def _require_same_columns(job: RewriteJob, found: pa.Schema, expected: pa.Schema) -> None:
    if not found.equals(expected):
        raise OtherColumnsError(
            f"{job.former / job.name}.parquet: expected the columns {_told(expected)}, got {_told(found)}; "
            "it was written by another version: run acquire anew"
        )


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)
