"""Adopt: a folder of img2dataset shards becomes a corpus, validated, without a download."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from infra.digests import digest_of
from infra.store import Draft
from pipelines.adopt.source import AdoptError, SourceShard, folder_problems, source_shards
from pipelines.step import Context, Estimate, Resources, Step, StepConfig


class AdoptConfig(StepConfig):
    """`folder`: where the shards lie (`00000.tar`, `00000.parquet`, `00000_stats.json`); it is only read."""

    folder: str


class AdoptResources(Resources):
    """Reading and writing are what takes time: more shards at a time help where the disks do."""

    shards_in_flight: int = Field(default=4, ge=1)
    cpus_per_shard: float = Field(default=1.0, gt=0)


class Adopt(Step[AdoptConfig, AdoptResources]):
    """Rewrites every shard sorted by key and dated 0, so that equal content is equal bytes.

    Rows, columns and members stay, failed rows among them, with their statuses mapped to our states.  Where
    the source has no `sha256`, it is that of the image as stored, not as fetched; the summary counts them.
    """

    kind = "adopt"
    produces = "corpus"
    version = 1
    Config = AdoptConfig
    Resources = AdoptResources

    def identity(self, config: AdoptConfig) -> dict[str, Any]:
        """Names, sizes and modification times of the files: reading terabytes for a plan would not do."""
        files = [
            [path.name, path.stat().st_size, path.stat().st_mtime_ns]
            for path in sorted(Path(config.folder).glob("*"))
            if path.is_file()
        ]
        return {"files": digest_of(files)}

    def check(self, config: AdoptConfig) -> list[str]:
        return folder_problems(Path(config.folder))

    def estimate(self, config: AdoptConfig, inputs: Mapping[str, Estimate]) -> Estimate:  # noqa: ARG002
        tars = list(Path(config.folder).glob("*.tar"))
        return Estimate(disk_bytes=sum(tar.stat().st_size for tar in tars))

    def run(self, context: Context[AdoptConfig, AdoptResources]) -> dict[str, Any]:
        from pipelines.acquire.step import report
        from pipelines.adopt.keys import shared_key
        from pipelines.adopt.shard import AdoptJob, adopt_shard
        from pipelines.distribute import for_each

        shards, committed = source_shards(Path(context.config.folder)), context.draft.committed()
        context.progress.start(len(shards), unit="shards", done=len(committed))
        problems = []
        for result in for_each(
            adopt_shard,
            (AdoptJob(draft=context.draft, source=s) for s in shards if s.name not in committed),
            in_flight=context.resources.shards_in_flight,
            num_cpus=context.resources.cpus_per_shard,
        ):
            context.progress.advance()
            if isinstance(result, str):
                problems.append(result)
        if problems:
            raise AdoptError(_told(sorted(problems), len(shards)))
        if shared := shared_key(context.draft.path, [shard.name for shard in shards]):
            key, first, second = shared
            raise AdoptError(
                f"key {key} is in shard {first} and in shard {second}, expected it in one; "
                "are two downloads in this folder? adopt them from a folder each"
            )
        return report(context) | _facts(context.draft, shards)


def _told(problems: list[str], shards: int) -> str:
    """One line, however many shards are damaged."""
    more = f" (and {len(problems) - 1} more: {'; '.join(problems[1:])})" if len(problems) > 1 else ""
    return f"{len(problems)} of {shards} shards cannot be adopted: {problems[0]}{more}"


def _facts(draft: Draft, shards: list[SourceShard]) -> dict[str, Any]:
    from pipelines.adopt.shard import ODDITIES, facts_file

    facts = [json.loads((draft.path / facts_file(shard.name)).read_bytes()) for shard in shards]
    hashed = sum(fact["hashed"] for fact in facts)
    told = "of the bytes as fetched, as the source has it"
    if hashed:
        told = f"of the bytes as stored for {hashed} samples, for which the source has none"
    return {
        "sha256": told,
        "sha256_of_stored_bytes": hashed,
        "rows_never_written": sum(fact["unlisted"] for fact in facts),
        **{name: sum(fact.get(name, 0) for fact in facts) for name in ODDITIES},
        "without_parquet": sum(shard.parquet is None for shard in shards),
    }
