"""`unclip filter`: the packaged recipe of that name over a folder of shards, its result in another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.machine import folder_problem
from infra.store import Artifact
from workflows.execute import Execution, execute, locked
from workflows.publish import publish, refuse_foreign
from workflows.recipe import Recipe, load_recipe
from workflows.refusal import Refusal
from workflows.report import table

RECIPE = "filter"
SCORERS = "steps.annotate.scorers"
WORK = ".unclip"
"""The root inside of the output folder, unless another is given."""


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """How it ended: the verdict's row account, and whether any file was written."""

    out: Path
    execution: Execution
    corpus: Artifact
    filtered: Artifact
    written: bool

    @property
    def notes(self) -> list[str]:
        """What was odd about the input and is no error; one line each."""
        facts, lines = self.corpus.summary, []
        if count := facts.get("captions_missing", 0):
            lines.append(f"samples without a caption: {count:,}, judged as having an empty one")
        if count := facts.get("captions_not_utf8", 0):
            lines.append(
                f"captions that are no UTF-8: {count:,}, judged with � where unreadable, kept byte for byte"
            )
        if count := facts.get("captions_differ", 0):
            lines.append(
                f"captions that differ in Parquet or JSON: {count:,}, judged as in the .txt, kept as they are"
            )
        if count := facts.get("other_members", 0):
            lines.append(f"members that are no image, caption or JSON: {count:,}, kept unjudged")
        empty = [shard.name for shard in self.corpus.shards if shard.rows.total == 0]
        if empty:
            lines.append(f"empty shards: {len(empty):,}, first {empty[0]}")
        return lines

    def json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "out": str(self.out),
            "rows": self.filtered.manifest["rows"],
            "shards": len(self.filtered.shards),
            "report": str(self.out / "report.json"),
            "written": self.written,
            "notes": self.notes,
            **self.execution.json(),
        }

    def text(self) -> str:
        """For people."""
        rows, shards = self.filtered.rows, len(self.filtered.shards)
        nothing = self.execution.nothing_to_do and not self.written
        heading = "nothing to do: it was all written before\n" if nothing else ""
        lines = [
            f"{heading}kept {rows.kept:,} of {rows.total:,} rows, in {shards:,} shards: {self.out}",
            *table([("not kept", "rows"), *((reason, f"{n:,}") for reason, n in rows.reasons.items())]),
            *self.notes,
            f"report: {self.out / 'report.html'}",
        ]
        return "\n".join(line for line in lines if line)


def filter_recipe(shards: Path, policy: str, *, rejected: bool, overrides: Sequence[str] = ()) -> Recipe:
    """The packaged recipe for this folder and policy, with the scorers that the policy needs, unless an
    override names others.

    Raises `Refusal` where the policy cannot be used.
    """
    from filters.choose import scorers_for
    from filters.policy import PolicyError
    from pipelines.step import package_file
    from workflows.judging import problem_lines, read_policy

    rules = read_policy(policy)
    values: dict[str, Any] = {
        "adopt.folder": str(shards.absolute()),
        "judge.policy": str(package_file(policy).absolute()),
        "export.rejected": rejected,
    }
    if not any(override.partition("=")[0].strip() == SCORERS for override in overrides):
        try:
            scorers = scorers_for(rules)
        except PolicyError as error:
            raise Refusal([f"{policy}: {line}" for line in problem_lines(error)]) from None
        values["annotate.scorers"] = list(scorers)
        values["annotate.scorer_options"] = {name: options for name, options in scorers.items() if options}
    ours = [f"steps.{name}={json.dumps(value)}" for name, value in values.items()]
    return load_recipe(RECIPE, [*ours, *overrides])


def run_filter(
    shards: Path,
    policy: str,
    out: Path,
    *,
    rejected: bool,
    root: Path | None = None,
    overrides: Sequence[str] = (),
    wait: bool = False,
    quiet: bool = False,
    tracking: bool = True,
) -> Filtered:
    """Filter `shards` into `out`; killed at any moment, the same call goes on, and once done does nothing.

    Raises `Refusal` for input that cannot be worked with, before any work, and `StepFailed` where a step
    raised: a damaged shard, say.  `out` is written to when everything is judged.
    """
    if out.absolute() == shards.absolute():
        raise Refusal(f"--out {out}: is the folder of the shards; choose another")
    if problem := folder_problem(out, "--out"):
        raise Refusal(problem)
    recipe = filter_recipe(shards, policy, rejected=rejected, overrides=overrides)
    refuse_foreign(out)
    place = out / WORK if root is None else root
    with locked(place, wait=wait, quiet=quiet):
        execution = execute(recipe, place, quiet=quiet, tracking=tracking)
        made = {name: Artifact.open(Path(execution.record.step(name).path)) for name in ("adopt", "export")}
        written = publish(made["export"], out)
    return Filtered(
        out=out, execution=execution, corpus=made["adopt"], filtered=made["export"], written=written
    )
