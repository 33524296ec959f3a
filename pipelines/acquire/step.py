"""Acquire: a URL list becomes a corpus of WebDataset shards, every row of it accounted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra.digests import sha256_of_file
from infra.origin import Origin, Site, port_problem
from infra.shards import shard_name
from infra.store import Artifact
from pipelines.acquire.config import AcquireConfig, AcquireResources, BlockListFiles
from pipelines.acquire.reader import UrlListError, iter_shards, open_url_list
from pipelines.step import Context, Estimate, Step

URLS_FILE = "urls.parquet"
# Measured on two cores with the demo's settings; only `plan` uses them.
ROWS_PER_SECOND = 120.0
BYTES_PER_ROW = 60_000


class Acquire(Step[AcquireConfig, AcquireResources]):
    """Fetches every URL once, decodes, resizes and stores what is an image, and says what became of the rest.

    A row that fails is a row of the corpus, with its state; a shard that is committed is not fetched again.
    Library versions stay out of the address on purpose: a crawl is a dated observation, and an update of
    the image library is no reason to trouble every site a second time.
    """

    kind = "acquire"
    produces = "corpus"
    version = 1
    Config = AcquireConfig
    Resources = AcquireResources

    def identity(self, config: AcquireConfig) -> dict[str, Any]:
        """Content of the URL list, when it is a file, and of the block lists."""
        identity: dict[str, Any] = {}
        if config.url_list and Path(config.url_list).is_file():
            identity["url_list"] = sha256_of_file(Path(config.url_list))
        if config.block_lists != BlockListFiles():
            from pipelines.acquire.door import list_digests

            identity["block_lists"] = list_digests(config.block_lists)
        return identity

    def check(self, config: AcquireConfig) -> list[str]:
        problems = []
        if (config.urls is None) == (config.url_list is None):
            problems.append(
                "expected either `urls` (an artifact) or `url_list` (a file), got both or neither"
            )
        elif config.url_list is not None:
            try:
                open_url_list(Path(config.url_list), config.columns)
            except UrlListError as error:
                problems.append(str(error))
        problems += _block_list_problems(config)
        if config.extract_exif and find_spec("exifread") is None:
            problems.append("extract_exif needs the package exifread: pip install exifread")
        return problems

    def check_inputs(self, config: AcquireConfig, inputs: Mapping[str, Artifact]) -> list[str]:  # noqa: ARG002
        """The port of a site that is to be served must be free."""
        if "serve" not in inputs:
            return []
        site = Site.open(inputs["serve"].path)
        problem = port_problem(site.host, site.port)
        return [problem] if problem else []

    def estimate(self, config: AcquireConfig, inputs: Mapping[str, Estimate]) -> Estimate:
        rows = inputs["urls"].rows if "urls" in inputs else 0
        if config.url_list is not None:
            try:
                rows, _ = open_url_list(Path(config.url_list), config.columns)
            except UrlListError:
                rows = 0  # check() tells
        return Estimate(rows=rows, disk_bytes=rows * BYTES_PER_ROW, seconds=rows / ROWS_PER_SECOND)

    def run(self, context: Context[AcquireConfig, AcquireResources]) -> dict[str, Any]:
        from pipelines.acquire.report import REPORT_FILE, write_report
        from pipelines.acquire.shard import acquire_shard
        from pipelines.distribute import for_each

        rows, batches = open_url_list(_url_list(context), context.config.columns)
        committed = context.draft.committed()
        done = sum(record.rows.total for record in committed.values())
        context.progress.start(rows, done=done)
        with ExitStack() as stack:
            if "serve" in context.inputs and done < rows:
                stack.enter_context(Origin(Site.open(context.inputs["serve"].path)))
            for account in for_each(
                acquire_shard,
                _jobs(context, batches, set(committed)),
                in_flight=context.resources.shards_in_flight,
                num_cpus=context.resources.cpus_per_shard,
            ):
                context.progress.advance(account.total)
        summary = write_report(context.draft)
        context.journal.artifact(context.draft.path / REPORT_FILE)
        return summary


def _block_list_problems(config: AcquireConfig) -> list[str]:
    """One line for the first block list that cannot be used."""
    if config.block_lists == BlockListFiles():
        return []
    from filters.block_lists import BlockListError
    from pipelines.acquire.door import load_lists

    try:
        load_lists(config.block_lists)
    except BlockListError as error:
        return [str(error)]
    return []


def _url_list(context: Context[AcquireConfig, AcquireResources]) -> Path:
    if "urls" in context.inputs:
        return context.inputs["urls"].path / URLS_FILE
    if context.config.url_list is None:
        raise UrlListError("expected either `urls` (an artifact) or `url_list` (a file), got neither")
    return Path(context.config.url_list)


def _jobs(
    context: Context[AcquireConfig, AcquireResources],
    batches: Iterator[pa.RecordBatch],
    committed: set[str],
) -> Iterator[Any]:
    """The shards that are still to be done, read from the list as they are submitted."""
    from pipelines.acquire.door import DoorSource, absolute
    from pipelines.acquire.shard import ShardJob

    door = DoorSource.of(absolute(context.config.block_lists), context.draft.path.parents[1])
    for index, table in iter_shards(batches, context.config.shard_size):
        if shard_name(index) not in committed:
            yield ShardJob(
                draft=context.draft,
                index=index,
                table=table,
                config=context.config,
                resources=context.resources,
                door=door,
            )
