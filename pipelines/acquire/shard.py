"""One shard of a URL list: fetched, decoded, written, committed.  Runs as one task on a worker."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import cv2
import pyarrow as pa

from infra.addresses import AddressPolicy
from infra.http import Fetcher, FetchFailure, FetchPolicy
from infra.shards import Sample, sample_key, shard_name, write_parquet, write_tar
from infra.store import Draft, Rows
from pipelines.acquire.config import AcquireConfig, AcquireResources
from pipelines.acquire.decode import ImageRefusedError, Picture, exif_json, process_image
from pipelines.acquire.door import Door, DoorSource
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
    """Rows `table` of shard `index`, and everything a worker needs to commit them."""

    draft: Draft
    index: int
    table: pa.Table
    config: AcquireConfig
    resources: AcquireResources
    door: DoorSource


@dataclass(frozen=True, kw_only=True, slots=True)
class RowResult:
    """Where a row ended, with its picture if it has one.  Every other field enters the row's metadata."""

    state: State
    message: str | None = None
    picture: Picture | None = None
    sha256: str | None = None
    exif: str | None = None


def acquire_shard(job: ShardJob) -> Rows:
    """Fetch, decode and commit one shard; returns its row account."""
    cv2.setNumThreads(1)  # parallelism is across shards and decode threads
    name = shard_name(job.index)
    rows: list[dict[str, Any]] = []
    tar, table = job.draft.temporary(f"{name}.tar"), job.draft.temporary(f"{name}.parquet")
    write_tar(tar, _samples(job, rows))
    write_parquet(table, pa.Table.from_pylist(rows, schema=output_schema(job.table.schema, job.config)))
    states = Counter(str(row["status"]) for row in rows)
    kept = states.pop(str(State.OK), 0)
    account = Rows(total=job.table.num_rows, kept=kept, failed=sum(states.values()), reasons=dict(states))
    job.draft.commit_shard(name, {f"{name}.tar": tar, f"{name}.parquet": table}, account)
    return account


def output_schema(schema: pa.Schema, config: AcquireConfig) -> pa.Schema:
    """Columns of the shard's Parquet: the input's, then ours."""
    fields = [(field.name, field.type) for field in schema] + list(WRITTEN)
    if config.extract_exif:
        fields.append(("exif", pa.string()))
    return pa.schema([*fields, ("sha256", pa.string())])


def fetch_policy(config: AcquireConfig) -> FetchPolicy:
    """The fetcher's policy as the recipe states it."""
    settings = config.fetch.model_dump(exclude={"allow_private", "disallowed_directives"})
    return FetchPolicy(
        **settings,
        disallowed_directives=frozenset(d.lower() for d in config.fetch.disallowed_directives),
        addresses=AddressPolicy.of(config.fetch.allow_private),
    )


def _samples(job: ShardJob, rows: list[dict[str, Any]]) -> Iterator[Sample]:
    """Samples of the shard in key order; appends every row's metadata to `rows` on the way."""
    with asyncio.Runner() as runner, ThreadPoolExecutor(job.resources.decode_threads) as decoders:
        results = _results(job, decoders)
        inputs = iter(job.table.to_pylist())
        for position in range(job.table.num_rows):
            result: RowResult = runner.run(anext(results))
            key = sample_key(job.index, position, job.config.shard_size)
            row = _metadata(next(inputs), key, result, job.config)
            rows.append(row)
            if result.picture is not None:
                yield Sample(
                    key=key,
                    image=result.picture.data,
                    extension=job.config.image.format,
                    caption=row.get("caption") or "",
                    metadata=row,
                )
        runner.run(results.aclose())


async def _results(job: ShardJob, decoders: Executor) -> Any:
    """Row results in row order, at most `window` of them under way: memory does not grow with the shard."""
    door = job.door.open()
    fetcher = Fetcher(
        replace(fetch_policy(job.config), refuse=door.refuses_url),
        connections=job.resources.connections,
        per_host=job.resources.per_host,
    )
    async with fetcher:
        under_way: deque[asyncio.Task[RowResult]] = deque()
        for url in job.table.column("url"):
            row = _acquire(url.as_py(), fetcher, decoders, job.config, door)
            under_way.append(asyncio.create_task(row))
            if len(under_way) == job.resources.window:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()


async def _acquire(
    url: str | None, fetcher: Fetcher, decoders: Executor, config: AcquireConfig, door: Door
) -> RowResult:
    if url and (refusal := door.refuses_url(url)):
        return RowResult(state=State.REFUSED_BY_POLICY, message=refusal)
    fetched = await fetcher.fetch(url or "")
    if isinstance(fetched, FetchFailure):
        return RowResult(state=State(fetched.state), message=fetched.message)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(decoders, _decode, fetched.body, fetched.content_type, config, door)


def _decode(body: bytes, content_type: str, config: AcquireConfig, door: Door) -> RowResult:
    try:
        door.admit_bytes(body)
        picture = process_image(body, config.image)
        door.admit_picture(body)
    except ImageRefusedError as error:
        message = f"{error} ({content_type})" if error.state is State.NOT_AN_IMAGE else str(error)
        return RowResult(state=error.state, message=message)
    return RowResult(
        state=State.OK,
        picture=picture,
        sha256=hashlib.sha256(body).hexdigest(),
        exif=exif_json(body) if config.extract_exif else None,
    )


def _metadata(row: dict[str, Any], key: str, result: RowResult, config: AcquireConfig) -> dict[str, Any]:
    """The row as img2dataset writes it: input columns, then `WRITTEN`, `exif` and `sha256`."""
    picture = result.picture
    metadata = row | {"key": key, "status": str(result.state), "error_message": result.message}
    for name in ("width", "height", "original_width", "original_height"):
        metadata[name] = getattr(picture, name) if picture is not None else None
    if config.extract_exif:
        metadata["exif"] = result.exif
    return metadata | {"sha256": result.sha256}
