"""Small real steps for tests of the runner: `count` makes numbers, `double` doubles them, shard by shard.

Run as a module it is the command line with these steps known to it:
`python -m tests.workflows.toys run RECIPE ...`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from infra.store import Rows
from pipelines.registry import STEPS
from pipelines.step import Context, Estimate, Resources, Step, StepConfig, input_of

RECIPE = """
schema_version: 1
name: toys
steps:
  numbers: {kind: count, shards: 4}
  twice:
    kind: double
    numbers: ${steps.numbers}
  four_times:
    kind: double
    numbers: ${steps.twice}
"""


class Shape(BaseModel):
    """A nested setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(default=3, ge=1)


class CountConfig(StepConfig):
    shards: int = Field(default=4, ge=1)
    shape: Shape = Shape()
    mode: str = "plain"
    file: str | None = None
    pause_s: float = 0.0


class Workers(Resources):
    workers: int = 1


class Count(Step[CountConfig, Workers]):
    """Writes `width` numbers into each shard."""

    kind = "count"
    produces = "numbers"
    version = 1
    Config = CountConfig
    Resources = Workers

    def identity(self, config: CountConfig) -> dict[str, Any]:
        return {"file": Path(config.file).read_text()} if config.file else {}

    def check(self, config: CountConfig) -> list[str]:
        if config.file and not Path(config.file).is_file():
            return [f"file {config.file!r} not found"]
        return []

    def estimate(self, config: CountConfig, inputs: Mapping[str, Estimate]) -> Estimate:  # noqa: ARG002
        return Estimate(rows=config.shards * config.shape.width, disk_bytes=2_000_000, seconds=90)

    def run(self, context: Context[CountConfig, Workers]) -> dict[str, Any]:
        config = context.config
        if config.mode == "fail":
            context.journal.metrics({"before_failure": 1.0})
            raise ValueError("told to fail\nwith a second line")
        if config.mode == "edit" and config.file:
            Path(config.file).write_text("edited while the step ran")
        context.progress.start(config.shards)
        width = config.shape.width
        for index in range(config.shards):
            numbers = [index * width + i for i in range(width)]
            commit(context, f"{index:05d}", numbers, config.pause_s)
            # A resumed step writes its journal again from its checkpoint on: the uploader must cope.
            context.journal.metrics({"loss": 1 / (index + 1)}, step=index)
        return {"numbers": config.shards * width, "name": "numbers"}


class DoubleConfig(StepConfig):
    numbers: str = input_of("numbers", "doubled")
    also: str | None = input_of("doubled", optional=True)
    factor: int = 2
    pause_s: float = 0.0


class Double(Step[DoubleConfig, Workers]):
    """Multiplies by `factor`."""

    kind = "double"
    produces = "doubled"
    version = 1
    Config = DoubleConfig
    Resources = Workers

    def run(self, context: Context[DoubleConfig, Workers]) -> dict[str, Any]:
        source = context.inputs["numbers"]
        for record in source.shards:
            text = (source.path / f"{record.name}.txt").read_text()
            numbers = [context.config.factor * int(line) for line in text.split()]
            commit(context, record.name, numbers, context.config.pause_s)
        return {"factor": context.config.factor}


def commit(context: Context[Any, Any], shard: str, numbers: list[int], pause_s: float) -> None:
    """Commit one shard unless it is; every execution leaves a line in `$TOY_LOG`."""
    if shard in context.draft.committed():
        return
    time.sleep(pause_s)
    if log := os.environ.get("TOY_LOG"):
        with Path(log).open("a") as stream:
            stream.write(f"{context.draft.kind}/{context.draft.address[:8]}/{shard}\n")
    temporary = context.draft.temporary(shard)
    temporary.write_text("\n".join(map(str, numbers)))
    rows = Rows(total=len(numbers), kept=len(numbers))
    context.draft.commit_shard(shard, {f"{shard}.txt": temporary}, rows)
    context.progress.advance()


TOYS = {"count": "tests.workflows.toys:Count", "double": "tests.workflows.toys:Double"}


if __name__ == "__main__":
    from workflows.cli.main import run_cli

    STEPS.update(TOYS)
    sys.exit(run_cli(sys.argv[1:]))
