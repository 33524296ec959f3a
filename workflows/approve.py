"""Recording that somebody approved a verdict."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.approvals import Approval, read_approvals, write_approval
from infra.store import Artifact, Store
from pipelines.judge.approve import approval_of, policy_facts
from workflows.judging import find_verdict
from workflows.plan import make_plan, resolve_inputs
from workflows.recipe import Recipe
from workflows.refusal import Refusal

APPROVE = "approve"
ADDRESS = re.compile(r"^[0-9a-f]{8,64}$")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The approval of a verdict, and whether it was written now or stood there before."""

    verdict: Artifact
    approval: Approval
    written: bool

    def json(self) -> dict[str, Any]:
        """The outcome for machines."""
        return {**asdict(self.approval), "written": self.written}

    def text(self, root: Path) -> str:
        """The outcome for people."""
        a, rows = self.approval, self.verdict.rows
        did = "approved" if self.written else "was approved before"
        note = f" ({a.note})" if a.note else ""
        return (
            f"verdict {a.verdict[:20]}, policy {a.policy['name']} v{a.policy['version']}, {rows.kept:,} of "
            f"{rows.total:,} rows kept: {did} by {a.who} on {a.when}{note}\n"
            f"on record: {root / 'store' / '_approvals'}/{a.number:06d}.json; the next `unclip run` goes on"
        )


def waiting_verdict(recipe: Recipe, root: Path, step: str | None = None) -> Artifact:
    """The finished verdict that the recipe's approve step (or the one called `step`) takes.

    Raises `Refusal` where the recipe has no such step, or the verdict is not made yet.
    """
    node = recipe.node_of(APPROVE, step)
    made = {planned.node.name: planned.artifact for planned in make_plan(recipe, root, only=node.name).steps}
    inputs, _ = resolve_inputs(node, Store(root), made)
    if "verdict" not in inputs:
        raise Refusal(
            f"steps.{node.name}: the verdict {node.inputs['verdict']} is not made yet in {root}: run the "
            "recipe first, with the same --set; it stops there"
        )
    return inputs["verdict"]


def approve(root: Path, verdict: Artifact, *, who: str, note: str) -> Outcome:
    """Put the approval on record, unless it is; the caller holds the root's lock."""
    if not who.strip():
        raise Refusal("--by: expected a name, got nothing")
    if known := approval_of(verdict):
        return Outcome(verdict=verdict, approval=known, written=False)
    store = root / "store"
    approval = Approval(
        number=len(read_approvals(store)) + 1,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        who=who,
        note=note,
        verdict=verdict.address,
        content=verdict.content,
        policy=policy_facts(verdict),
    )
    write_approval(store, approval)
    return Outcome(verdict=verdict, approval=approval, written=True)


def verdict_to_approve(what: str, root: Path, overrides: tuple[str, ...], step: str | None) -> Artifact:
    """The verdict that `what` means: (the start of) its address, or the recipe that waits with it."""
    from workflows.recipe import load_recipe

    if ADDRESS.match(what):
        return find_verdict(root, what)
    return waiting_verdict(load_recipe(what, overrides), root, step)
