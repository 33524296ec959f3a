"""One shard of a URL list: fetched, decoded, written, committed.  Runs as one task on a worker."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from infra.addresses import AddressPolicy
from infra.fetch_loop import fetch_loop
from infra.http import Fetcher, FetchFailure, FetchPolicy, Share
from infra.origin import require_listening
from infra.shards import Sample, sample_key, shard_name, write_parquet, write_tar
from infra.store import Draft, Rows
from pipelines.acquire.config import VERIFY_HASH, AcquireConfig, AcquireResources
from pipelines.acquire.decode import ImageRefusedError, Picture, exif_json, process_image
from pipelines.acquire.door import Door, DoorSource
from pipelines.acquire.facts import Facts, facts_file, facts_table, write_facts
from pipelines.acquire.states import DROPPED, State

# img2dataset's order and types; the input's columns stand before these.
WRITTEN = (
    ("key", pa.string()),
    ("status", pa.string()),
    ("error_message", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("original_width", pa.int32()),
    ("original_height", pa.int32()),
)


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Rows `table` of shard `index`, and everything a worker needs to commit them.

    `repeats` are the positions in the shard whose URL stands further up in the list, with its key there.
    `origin` is host and port of a site that the driver serves: it dies with the driver, and no row may be
    blamed for that.  `keys` are the rows' keys where the table holds only some rows of the shard; otherwise
    they are counted.
    """

    draft: Draft
    index: int
    table: pa.Table
    config: AcquireConfig
    resources: AcquireResources
    door: DoorSource
    origin: tuple[str, int] | None = None
    repeats: dict[int, str] = field(default_factory=dict)
    keys: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowResult:
    """Where a row ended, with its picture if it has one.

    `content_type` and `fetched_bytes` enter the shard's facts, every other field the row's metadata.
    """

    state: State
    message: str | None = None
    picture: Picture | None = None
    sha256: str | None = None
    exif: str | None = None
    content_type: str | None = None
    fetched_bytes: int | None = None


def acquire_shard(job: ShardJob) -> Rows:
    """Fetch, decode and commit one shard; returns its row account."""
    cv2.setNumThreads(1)  # parallelism is across shards and decode threads
    name = shard_name(job.index)
    rows: list[dict[str, Any]] = []
    facts: list[Facts] = []
    tar = job.draft.temporary(f"{name}.tar")
    write_tar(tar, fetch_samples(job, rows, facts))
    table = pa.Table.from_pylist(rows, schema=output_schema(job.table.schema, job.config))
    return commit_shard(job.draft, name, tar, table, facts_table(facts))


def commit_shard(draft: Draft, name: str, tar: Path, table: pa.Table, facts: pa.Table | None) -> Rows:
    """Commit a shard of a corpus from its finished tar, its rows and their facts; returns its row account."""
    files = {f"{name}.tar": tar, f"{name}.parquet": draft.temporary(f"{name}.parquet")}
    write_parquet(files[f"{name}.parquet"], table)
    if facts is not None:
        files[facts_file(name)] = draft.temporary(facts_file(name))
        write_facts(files[facts_file(name)], facts)
    states = {count["values"]: count["counts"] for count in pc.value_counts(table["status"]).to_pylist()}
    kept = states.pop(str(State.OK), 0)
    dropped = sum(count for state, count in states.items() if state in DROPPED)
    failed = sum(states.values()) - dropped
    account = Rows(total=table.num_rows, kept=kept, dropped=dropped, failed=failed, reasons=states)
    draft.commit_shard(name, files, account)
    return account


def input_columns(schema: pa.Schema) -> list[str]:
    """Names of those columns of a shard's Parquet that came with the URL list."""
    return schema.names[: schema.get_field_index("key")]


def output_schema(schema: pa.Schema, config: AcquireConfig) -> pa.Schema:
    """Columns of the shard's Parquet: the input's but for expected digests, then ours."""
    fields = [(field.name, field.type) for field in schema if field.name != VERIFY_HASH] + list(WRITTEN)
    if config.extract_exif:
        fields.append(("exif", pa.string()))
    return pa.schema([*fields, ("sha256", pa.string())])


def fetch_policy(config: AcquireConfig) -> FetchPolicy:
    """The fetcher's policy as the recipe states it."""
    fetch = config.fetch
    settings = fetch.model_dump(exclude={"allow_private", "contact", "disallowed_directives", "user_agent"})
    return FetchPolicy(
        **settings,
        user_agent=f"{fetch.user_agent} (+{fetch.contact})" if fetch.contact else fetch.user_agent,
        disallowed_directives=frozenset(d.lower() for d in fetch.disallowed_directives),
        addresses=AddressPolicy.of(fetch.allow_private),
    )


def fetch_share(resources: AcquireResources) -> Share:
    """The part of the run's limits that one shard in flight may use."""
    return Share(
        connections=resources.connections,
        per_host=resources.per_host,
        delay_s=resources.per_host_delay_s,
        of=resources.shards_in_flight,
    )


def fetch_samples(job: ShardJob, rows: list[dict[str, Any]], facts: list[Facts]) -> Iterator[Sample]:
    """Samples of the shard in key order; appends every row's metadata and facts on the way.

    Raises `OriginGoneError` at the end where the job's origin is gone.
    """
    inputs, digests = _without_hash(job.table).to_pylist(), _digests(job.table)
    with (
        ThreadPoolExecutor(job.resources.decode_threads) as decoders,
        closing(_results(job, decoders)) as results,
    ):
        for position, result in enumerate(results):
            key = job.keys[position] if job.keys else sample_key(job.index, position, job.config.shard_size)
            row = _metadata(inputs[position], key, result, job.config)
            rows.append(row)
            facts.append(
                {
                    "key": key,
                    "content_type": result.content_type,
                    "fetched_bytes": result.fetched_bytes,
                    "expected_hash": digests[position],
                }
            )
            if result.picture is not None:
                yield Sample(
                    key=key,
                    image=result.picture.data,
                    extension=job.config.image.format,
                    caption=row.get("caption") or "",
                    metadata=row,
                )
    if job.origin is not None:
        require_listening(*job.origin)


def _results(job: ShardJob, decoders: Executor) -> Generator[RowResult, None, None]:
    """Row results in row order, at most `window` of them under way: memory does not grow with the shard."""
    loop, door = fetch_loop(), job.door.open()
    fetcher = loop.fetcher(fetch_policy(job.config), fetch_share(job.resources))
    under_way: deque[Future[RowResult]] = deque()
    try:
        requests = zip(job.table["url"].to_pylist(), _digests(job.table), strict=True)
        for position, (url, digest) in enumerate(requests):
            if key := job.repeats.get(position):
                row = _done(RowResult(state=State.DUPLICATE_URL, message=f"same URL as {key}"))
            else:
                row = _acquire(url, digest, fetcher, decoders, job.config, door)
            under_way.append(loop.submit(row))
            if len(under_way) == job.resources.window:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


async def _acquire(
    url: str | None,
    digest: str | None,
    fetcher: Fetcher,
    decoders: Executor,
    config: AcquireConfig,
    door: Door,
) -> RowResult:
    fetched = await fetcher.fetch(url or "", refuse=door.refuses_url)
    if isinstance(fetched, FetchFailure):
        return RowResult(state=State(fetched.state), message=fetched.message)
    loop = asyncio.get_running_loop()
    arguments = (fetched.body, fetched.content_type, digest, config, door)
    return await loop.run_in_executor(decoders, _decode, *arguments)


def _decode(
    body: bytes, content_type: str, digest: str | None, config: AcquireConfig, door: Door
) -> RowResult:
    fetched: dict[str, Any] = {"content_type": content_type, "fetched_bytes": len(body)}
    if mismatch := _mismatch(body, digest, config):
        return RowResult(state=State.HASH_MISMATCH, message=mismatch, **fetched)
    try:
        door.admit_bytes(body)
        picture = process_image(body, config.image)
        door.admit_picture(body)
    except ImageRefusedError as error:
        message = f"{error} ({content_type})" if error.state is State.NOT_AN_IMAGE else str(error)
        return RowResult(state=error.state, message=message, **fetched)
    return RowResult(
        state=State.OK,
        picture=picture,
        sha256=hashlib.sha256(body).hexdigest(),
        exif=exif_json(body) if config.extract_exif else None,
        **fetched,
    )


def _mismatch(body: bytes, digest: str | None, config: AcquireConfig) -> str | None:
    """How the bytes differ from the digest the list expects; None where they do not, or none is expected."""
    expected = (digest or "").strip().lower()
    if config.columns.verify_hash is None or not expected:
        return None
    algorithm = config.columns.verify_hash[1]
    got = hashlib.new(algorithm, body, usedforsecurity=False).hexdigest()
    return None if got == expected else f"expected {algorithm} {expected}, got {got}"


def _digests(table: pa.Table) -> list[str | None]:
    """The digest that the list expects of each row."""
    return table[VERIFY_HASH].to_pylist() if VERIFY_HASH in table.column_names else [None] * table.num_rows


def _without_hash(table: pa.Table) -> pa.Table:
    return table.drop_columns(VERIFY_HASH) if VERIFY_HASH in table.column_names else table


async def _done(result: RowResult) -> RowResult:
    return result


def _metadata(row: dict[str, Any], key: str, result: RowResult, config: AcquireConfig) -> dict[str, Any]:
    """The row as img2dataset writes it: input columns, then `WRITTEN`, `exif` and `sha256`."""
    picture = result.picture
    metadata = row | {"key": key, "status": str(result.state), "error_message": result.message}
    for name in ("width", "height", "original_width", "original_height"):
        metadata[name] = getattr(picture, name) if picture is not None else None
    if config.extract_exif:
        metadata["exif"] = result.exif
    return metadata | {"sha256": result.sha256}
