"""The next snapshot of an acquisition: some rows asked for again, or a further list of URLs.

Both go on from a finished corpus.  Shards that nothing happens to are hard-linked, digests and all, so that
what follows in a recipe finds them unchanged.  Commands run these steps (`unclip retry`, `unclip append`);
recipes then take the newest snapshot.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import field_validator

from infra.store import Artifact
from pipelines.acquire.config import VERIFY_HASH, AcquireConfig, AcquireResources
from pipelines.acquire.reader import UrlListError, open_url_list
from pipelines.acquire.states import State
from pipelines.acquire.step import (
    BYTES_PER_ROW,
    ROWS_PER_SECOND,
    Acquire,
    block_list_problems,
    door_of,
    fetch_list,
    origin_of,
    package_problems,
    port_problems,
    report,
    serving,
)
from pipelines.step import Context, Estimate, Step, input_of

# Nothing is to be had from asking again: it is here, it is the same URL as another row, or it must not be.
NEVER_RETRIED = frozenset({"success", "duplicate_url", "forgotten"})
RETRIED = tuple(str(state) for state in State if state not in NEVER_RETRIED)


class SnapshotConfig(AcquireConfig):
    """The settings of the acquisition that it goes on from.

    `parent` is the address of the former snapshot.  It stands beside the input because a retry that changes
    nothing leaves equal content, and the retry after it is another observation all the same.
    """

    corpus: str = input_of("corpus")
    parent: str


class RetryConfig(SnapshotConfig):
    """`only`: the states whose rows are fetched again."""

    only: tuple[str, ...] = (str(State.TRANSIENT), str(State.TIMEOUT))

    @field_validator("only")
    @classmethod
    def _retried(cls, only: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(only).difference(RETRIED))
        if unknown or not only:
            raise ValueError(f"expected some of {', '.join(RETRIED)}, got {unknown or 'none'}")
        return tuple(sorted(set(only)))


class AppendConfig(SnapshotConfig):
    """`url_list` holds the rows to be added."""


class Retry(Step[RetryConfig, AcquireResources]):
    """Fetches the rows of some states again; same keys, same order, every other row as it was."""

    kind = "retry"
    produces = "corpus"
    version = 1
    Config = RetryConfig
    Resources = AcquireResources

    def identity(self, config: RetryConfig) -> dict[str, Any]:
        return Acquire().identity(config)

    def check(self, config: RetryConfig) -> list[str]:
        return block_list_problems(config) + package_problems(config)

    def check_inputs(self, config: RetryConfig, inputs: Mapping[str, Artifact]) -> list[str]:  # noqa: ARG002
        return port_problems(inputs)

    def estimate(self, config: RetryConfig, inputs: Mapping[str, Estimate]) -> Estimate:  # noqa: ARG002
        """At most the whole corpus on disk once more: every shard may hold a row that is asked for again."""
        corpus = inputs["corpus"]
        return Estimate(rows=corpus.rows, disk_bytes=corpus.disk_bytes)

    def run(self, context: Context[RetryConfig, AcquireResources]) -> dict[str, Any]:
        from pipelines.acquire.rewrite import RewriteJob, rewrite_shard
        from pipelines.distribute import for_each

        parent, only = context.inputs["corpus"], frozenset(context.config.only)
        counts = {shard.name: _count(shard.rows.reasons, only) for shard in parent.shards}
        changed = {name: count for name, count in counts.items() if count}
        todo = sorted(changed.keys() - context.draft.committed().keys())
        carry_over(context, except_for=changed.keys())
        asked, door = sum(changed.values()), door_of(context)
        context.progress.start(asked, done=asked - sum(changed[name] for name in todo))
        jobs = (
            RewriteJob(
                draft=context.draft,
                name=name,
                former=parent.path,
                only=only,
                config=context.config,
                resources=context.resources,
                door=door,
                origin=origin_of(context),
            )
            for name in todo
        )
        with serving(context, needed=bool(todo)):
            for count in for_each(
                rewrite_shard,
                jobs,
                in_flight=context.resources.shards_in_flight,
                num_cpus=context.resources.cpus_per_shard,
            ):
                context.progress.advance(count)
        summary = report(context)
        kept = sum(record.rows.kept for record in context.draft.committed().values())
        return summary | {"rows_asked_again": asked, "rows_recovered": kept - parent.rows.kept}


class Append(Step[AppendConfig, AcquireResources]):
    """Adds the rows of a further list as shards after the last one; the finished shards stay as they are."""

    kind = "append"
    produces = "corpus"
    version = 1
    Config = AppendConfig
    Resources = AcquireResources

    def identity(self, config: AppendConfig) -> dict[str, Any]:
        return Acquire().identity(config)

    def check(self, config: AppendConfig) -> list[str]:
        return Acquire().check(config)

    def check_inputs(self, config: AppendConfig, inputs: Mapping[str, Artifact]) -> list[str]:
        """A taken port, and columns that are not those of the corpus."""
        problem = columns_problem(config, inputs["corpus"])
        return port_problems(inputs) + ([problem] if problem else [])

    def estimate(self, config: AppendConfig, inputs: Mapping[str, Estimate]) -> Estimate:
        added = Acquire().estimate(config, {}).rows
        return Estimate(
            rows=inputs["corpus"].rows + added,
            disk_bytes=added * BYTES_PER_ROW,
            seconds=added / ROWS_PER_SECOND,
        )

    def run(self, context: Context[AppendConfig, AcquireResources]) -> dict[str, Any]:
        parent = context.inputs["corpus"]
        if problem := columns_problem(context.config, parent):
            raise UrlListError(problem)
        carry_over(context)
        fetch_list(context, first_shard=1 + max(int(shard.name) for shard in parent.shards))
        summary = report(context)
        return summary | {"rows_added": summary["rows"] - parent.rows.total}


def asked_again(corpus: Artifact, only: frozenset[str] | tuple[str, ...]) -> int:
    """How many rows of a corpus stand in one of the states `only`."""
    return _count(corpus.rows.reasons, frozenset(only))


def columns_problem(config: AppendConfig, corpus: Artifact) -> str | None:
    """A line where a list's columns are not the corpus's; `check` tells of one that cannot be read."""
    from pipelines.acquire.shard import input_columns

    first = corpus.path / f"{corpus.shards[0].name}.parquet"
    schema = pq.read_schema(first)
    former = {name: schema.field(name).type for name in input_columns(schema)}
    try:
        given = open_url_list(config.url_list or "", config.columns).schema
    except UrlListError:
        return None  # check() tells
    added = {field.name: field.type for field in given if field.name != VERIFY_HASH}
    if former == added:
        return None
    return (
        f"URL list {config.url_list}: expected the columns of the corpus, {_told(former)}; "
        f"got {_told(added)}: give them the same names and types"
    )


def carry_over(context: Context[Any, Any], *, except_for: Collection[str] = ()) -> None:
    """Link every shard of the former snapshot that is not committed yet, but for those named."""
    parent, committed = context.inputs["corpus"], context.draft.committed()
    for record in parent.shards:
        if record.name not in committed and record.name not in except_for:
            context.draft.link_shard(record, parent.path)


def _count(reasons: Mapping[str, int], only: frozenset[str]) -> int:
    return sum(count for state, count in reasons.items() if state in only)


def _told(columns: Mapping[str, pa.DataType]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in columns.items())
