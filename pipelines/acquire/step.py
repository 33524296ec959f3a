"""Acquire: a URL list becomes a corpus of WebDataset shards, every row of it accounted for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from infra.origin import Origin, Site, port_problem
from infra.progress import Progress
from infra.shards import sample_key
from infra.store import Artifact
from pipelines.acquire.config import AcquireConfig, AcquireResources, BlockListFiles
from pipelines.acquire.reader import UrlList, UrlListError, digest_of_list, iter_shards, open_url_list
from pipelines.step import Context, Estimate, Step

if TYPE_CHECKING:
    from pipelines.acquire.door import DoorSource
    from pipelines.acquire.survey import Survey

AcquireContext = Context[Any, AcquireResources]

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
    version = 3
    observes = True
    Config = AcquireConfig
    Resources = AcquireResources

    def identity(self, config: AcquireConfig) -> dict[str, Any]:
        """Content of the URL list, when it is not an artifact, and of the block lists."""
        identity: dict[str, Any] = {}
        if config.url_list is not None:
            identity["url_list"] = digest_of_list(config.url_list)
        if config.block_lists != BlockListFiles():
            from pipelines.acquire.door import list_digests

            identity["block_lists"] = list_digests(config.block_lists)
        return identity

    def check(self, config: AcquireConfig) -> list[str]:
        problems = []
        if (config.urls is None) == (config.url_list is None):
            problems.append("expected either `urls` (an artifact) or `url_list` (files), got both or neither")
        elif config.url_list is not None:
            try:
                open_url_list(config.url_list, config.columns)
            except UrlListError as error:
                problems.append(str(error))
        return problems + block_list_problems(config) + package_problems(config)

    def check_inputs(self, config: AcquireConfig, inputs: Mapping[str, Artifact]) -> list[str]:  # noqa: ARG002
        """The port of a site that is to be served must be free."""
        return port_problems(inputs)

    def estimate(self, config: AcquireConfig, inputs: Mapping[str, Estimate]) -> Estimate:
        rows = inputs["urls"].rows if "urls" in inputs else 0
        if config.url_list is not None:
            try:
                rows = open_url_list(config.url_list, config.columns).rows
            except UrlListError:
                rows = 0  # check() tells
        return Estimate(rows=rows, disk_bytes=rows * BYTES_PER_ROW, seconds=rows / ROWS_PER_SECOND)

    def run(self, context: Context[AcquireConfig, AcquireResources]) -> dict[str, Any]:
        fetch_list(context)
        return report(context)


def fetch_list(context: AcquireContext, *, first_shard: int = 0) -> None:
    """Fetch every row of the step's URL list into the shards from `first_shard` on that are not committed.

    Raises `UrlListError` where the list is malformed, and where its shards do not account for every row.
    """
    from pipelines.acquire.shard import acquire_shard
    from pipelines.acquire.survey import survey
    from pipelines.distribute import for_each

    url_list = open_url_list(_url_list(context), context.config.columns)
    reading = Progress(f"{context.progress.name}, reading the list", quiet=context.progress.quiet)
    surveyed = survey(url_list, context.draft, reading, find_repeats=context.config.duplicate_urls == "skip")
    committed = {int(name): record for name, record in context.draft.committed().items()}
    done = sum(record.rows.total for index, record in committed.items() if index >= first_shard)
    context.progress.start(surveyed.rows, done=done)
    before, began = done, time.monotonic()
    with serving(context, needed=done < surveyed.rows):
        for account in for_each(
            acquire_shard,
            _jobs(context, url_list, surveyed, set(committed), first_shard),
            in_flight=context.resources.shards_in_flight,
            num_cpus=context.resources.cpus_per_shard,
        ):
            context.progress.advance(account.total)
            done += account.total
            rate = (done - before) / (time.monotonic() - began)
            context.journal.metrics({"rows_done": done, "rows_per_s": rate}, step=done)
    if done != surveyed.rows:
        raise UrlListError(f"rows lost: the list has {surveyed.rows}, its shards account for {done}")


@contextmanager
def serving(context: AcquireContext, *, needed: bool) -> Iterator[None]:
    """Serve the site of the input `serve`, if there is one, as long as it is `needed`."""
    if "serve" not in context.inputs or not needed:
        yield
        return
    with Origin(Site.open(context.inputs["serve"].path)):
        yield


def origin_of(context: AcquireContext) -> tuple[str, int] | None:
    """Host and port of the site that is served while acquiring, if there is one."""
    if "serve" not in context.inputs:
        return None
    site = Site.open(context.inputs["serve"].path)
    return site.host, site.port


def report(context: Context[Any, Any]) -> dict[str, Any]:
    """Write the report over all shards of the draft and hand it to tracking; returns the summary."""
    from pipelines.acquire.report import PAGE_FILE, REPORT_FILE, write_report

    summary = write_report(context.draft)
    for file in (REPORT_FILE, PAGE_FILE):
        context.journal.artifact(context.draft.path / file, "acquire")
    return summary


def package_problems(config: AcquireConfig) -> list[str]:
    """What the settings need and is not installed, one line each."""
    if config.extract_exif and find_spec("exifread") is None:
        return ["extract_exif needs the package exifread: pip install exifread"]
    return []


def port_problems(inputs: Mapping[str, Artifact]) -> list[str]:
    """A line where the port of the site that is to be served is taken."""
    if "serve" not in inputs:
        return []
    site = Site.open(inputs["serve"].path)
    problem = port_problem(site.host, site.port)
    return [problem] if problem else []


def block_list_problems(config: AcquireConfig) -> list[str]:
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


def door_of(context: AcquireContext) -> DoorSource:
    """What keeps rows out: the recipe's block lists and the store's forget list."""
    from pipelines.acquire.door import DoorSource, absolute

    return DoorSource.of(absolute(context.config.block_lists), context.draft.path.parents[1])


def _url_list(context: AcquireContext) -> str | Sequence[str]:
    if "urls" in context.inputs:
        return str(context.inputs["urls"].path / URLS_FILE)
    if context.config.url_list is None:
        raise UrlListError("expected either `urls` (an artifact) or `url_list` (files), got neither")
    return context.config.url_list


def _jobs(
    context: AcquireContext, url_list: UrlList, surveyed: Survey, committed: set[int], first_shard: int
) -> Iterator[Any]:
    """The shards that are still to be done, read from the list as they are submitted."""
    from pipelines.acquire.shard import ShardJob

    door = door_of(context)
    size = context.config.shard_size
    done = {index - first_shard for index in committed}
    for position, table in iter_shards(url_list.batches(done, size), size, done):
        start, index = position * size, first_shard + position
        repeats = surveyed.repeats_in(start, start + size)
        yield ShardJob(
            draft=context.draft,
            index=index,
            table=table,
            config=context.config,
            resources=context.resources,
            door=door,
            origin=origin_of(context),
            repeats={
                row - start: sample_key(first_shard + first // size, first % size, size)
                for row, first in repeats.items()
            },
        )
