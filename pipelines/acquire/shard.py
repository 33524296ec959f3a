"""One shard of a URL list: fetched, decoded, written, committed.  Runs as one task on a worker."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import cv2
import pyarrow as pa

from infra.addresses import AddressPolicy
from infra.fetch_loop import fetch_loop
from infra.http import Fetcher, FetchFailure, FetchPolicy, Share
from infra.shards import Sample, sample_key, shard_name, write_parquet, write_tar
from infra.store import Draft, Rows
from pipelines.acquire.config import VERIFY_HASH, AcquireConfig, AcquireResources
from pipelines.acquire.decode import ImageRefusedError, Picture, exif_json, process_image
from pipelines.acquire.facts import facts_file, write_facts
from pipelines.acquire.states import State

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
    """

    draft: Draft
    index: int
    table: pa.Table
    config: AcquireConfig
    resources: AcquireResources
    repeats: dict[int, str] = field(default_factory=dict)


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
    facts: list[dict[str, Any]] = []
    final = {suffix: f"{name}.{suffix}" for suffix in ("tar", "parquet")} | {"facts": facts_file(name)}
    files = {kind: job.draft.temporary(file) for kind, file in final.items()}
    write_tar(files["tar"], _samples(job, rows, facts))
    write_facts(files["facts"], facts)
    write_parquet(
        files["parquet"], pa.Table.from_pylist(rows, schema=output_schema(job.table.schema, job.config))
    )
    states = Counter(str(row["status"]) for row in rows)
    kept = states.pop(str(State.OK), 0)
    dropped = states[State.DUPLICATE_URL]
    failed = states.total() - dropped
    account = Rows(total=job.table.num_rows, kept=kept, dropped=dropped, failed=failed, reasons=dict(states))
    job.draft.commit_shard(name, {final[kind]: path for kind, path in files.items()}, account)
    return account


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


def _samples(job: ShardJob, rows: list[dict[str, Any]], facts: list[dict[str, Any]]) -> Iterator[Sample]:
    """Samples of the shard in key order; appends every row's metadata and facts on the way."""
    inputs = _without_hash(job.table).to_pylist()
    with (
        ThreadPoolExecutor(job.resources.decode_threads) as decoders,
        closing(_results(job, decoders)) as results,
    ):
        for position, result in enumerate(results):
            key = sample_key(job.index, position, job.config.shard_size)
            row = _metadata(inputs[position], key, result, job.config)
            rows.append(row)
            facts.append(
                {"key": key, "content_type": result.content_type, "fetched_bytes": result.fetched_bytes}
            )
            if result.picture is not None:
                yield Sample(
                    key=key,
                    image=result.picture.data,
                    extension=job.config.image.format,
                    caption=row.get("caption") or "",
                    metadata=row,
                )


def _results(job: ShardJob, decoders: Executor) -> Generator[RowResult, None, None]:
    """Row results in row order, at most `window` of them under way: memory does not grow with the shard."""
    loop = fetch_loop()
    fetcher = loop.fetcher(fetch_policy(job.config), fetch_share(job.resources))
    under_way: deque[Future[RowResult]] = deque()
    try:
        for position, (url, digest) in enumerate(_requests(job.table)):
            if key := job.repeats.get(position):
                row = _done(RowResult(state=State.DUPLICATE_URL, message=f"same URL as {key}"))
            else:
                row = _acquire(url, digest, fetcher, decoders, job.config)
            under_way.append(loop.submit(row))
            if len(under_way) == job.resources.window:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()


async def _acquire(
    url: str | None, digest: str | None, fetcher: Fetcher, decoders: Executor, config: AcquireConfig
) -> RowResult:
    fetched = await fetcher.fetch(url or "")
    if isinstance(fetched, FetchFailure):
        return RowResult(state=State(fetched.state), message=fetched.message)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(decoders, _decode, fetched.body, fetched.content_type, digest, config)


def _decode(body: bytes, content_type: str, digest: str | None, config: AcquireConfig) -> RowResult:
    fetched: dict[str, Any] = {"content_type": content_type, "fetched_bytes": len(body)}
    if mismatch := _mismatch(body, digest, config):
        return RowResult(state=State.HASH_MISMATCH, message=mismatch, **fetched)
    try:
        picture = process_image(body, config.image)
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


def _requests(table: pa.Table) -> Iterator[tuple[str | None, str | None]]:
    """URL and expected digest of each row."""
    urls = table.column("url").to_pylist()
    digests = (
        table.column(VERIFY_HASH).to_pylist() if VERIFY_HASH in table.column_names else [None] * len(urls)
    )
    return zip(urls, digests, strict=True)


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
