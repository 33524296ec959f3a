"""What people and machines are shown: plans, the end of a run, the state of a root."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.store import SHARDS, Artifact
from pipelines.step import Estimate
from workflows.plan import Plan
from workflows.record import RunRecord, StepRecord
from workflows.tracking import TrackingOutcome


def plan_text(plan: Plan) -> str:
    """The plan as a table, with totals or the number of problems below."""
    rows = [("step", "state", "why", "inputs", "rows", "disk", "time")]
    for step in plan.steps:
        inputs = ", ".join(dict.fromkeys(str(reference) for reference in step.node.inputs.values()))
        rows.append((step.node.name, str(step.state), step.why, inputs or "-", *_estimate(step.estimate)))
    done = sum(step.artifact is not None for step in plan.steps)
    lines = [f"plan of {plan.recipe.name!r} ({plan.recipe.path}) under {plan.root}", "", *table(rows), ""]
    if plan.problems:
        lines.append(f"cannot run: {len(plan.problems)} problem(s)")
    elif not plan.to_run:
        lines.append(f"nothing to do: all {done} steps are finished")
    else:
        _, disk, seconds = _estimate(plan.total)
        lines.append(f"{done} done, {len(plan.to_run)} to run: about {seconds} and {disk} of disk")
    return "\n".join(lines)


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan for machines; `seconds` and `disk_bytes` are estimates, or measured where a step is done."""
    return {
        "recipe": plan.recipe.name,
        "root": str(plan.root),
        "steps": [
            {
                "name": step.node.name,
                "kind": step.node.step.kind,
                "state": str(step.state),
                "why": step.why,
                "inputs": {field: str(reference) for field, reference in step.node.inputs.items()},
                "address": step.address,
                "path": str(step.artifact.path) if step.artifact else "",
                "rows": step.estimate.rows,
                "disk_bytes": step.estimate.disk_bytes,
                "seconds": step.estimate.seconds,
            }
            for step in plan.steps
        ],
        "problems": list(plan.problems),
    }


def run_text(record: RunRecord, root: Path, tracking: TrackingOutcome | None) -> str:
    """What was made, where, how long each step took, and how to look at it."""
    rows = [("step", "made", "seconds", "rows in = kept + dropped + failed", "where")]
    for step in record.steps:
        state = "" if step.state == "done" else f" ({_state(step, record)})"
        seconds = f"{step.seconds:.1f}" if step.path else "-"
        where = _relative(step.path, root) if step.path else "-"
        rows.append((step.name, step.produces + state, seconds, _account(step), where))
    took = _duration((record.ended_ms - record.started_ms) / 1000)
    lines = [
        f"run {record.id} of {record.recipe!r}: {record.state} in {took}, root {root}",
        "",
        *table(rows),
        "",
    ]
    if tracking is None:
        lines.append("tracking: left for a later run; the journals have everything")
    elif tracking.complete:
        lines.append(f"tracked in {tracking.uri}")
    else:
        lines.append(f"tracking: {tracking.problem}")
    if any(step.produces == "model" and step.path for step in record.steps):
        lines.append(f'generate:   unclip generate "a red heart" -n 4 --out out/ --root {root}')
    lines.append(f"look at it: unclip ui --root {root}")
    return "\n".join(lines)


def run_json(record: RunRecord, root: Path, tracking: TrackingOutcome | None) -> dict[str, Any]:
    """The end of a run for machines."""
    return {
        "run": record.id,
        "recipe": record.recipe,
        "root": str(root),
        "state": _run_state(record),
        "seconds": round((record.ended_ms - record.started_ms) / 1000, 3),
        "steps": [_step_json(step, record) for step in record.steps],
        "tracking": None if tracking is None else {"uri": tracking.uri, "complete": tracking.complete},
    }


def status_text(records: Sequence[RunRecord], root: Path) -> str:
    """The newest run step by step, the others in a line each."""
    if not records:
        return f"no run in {root} yet: unclip run RECIPE --root {root}"
    newest, *others = records
    rows = [("step", "state", "seconds", "rows in = kept + dropped + failed", "note")]
    for step in newest.steps:
        seconds = f"{step.seconds:.1f}" if step.path else "-"
        rows.append((step.name, _state(step, newest), seconds, _account(step), _note(step, root)))
    state = _run_state(newest)
    again = "; the same command goes on from there" if state in ("interrupted", "failed") else ""
    lines = [f"run {newest.id} of {newest.recipe!r} under {root}: {state}{again}", "", *table(rows)]
    if others:
        lines += ["", "earlier runs:"]
        lines += [f"  {record.id}  {record.recipe}  {_run_state(record)}" for record in others]
    return "\n".join(lines)


def status_json(records: Sequence[RunRecord], root: Path) -> dict[str, Any]:
    """Every run of the root, the one started last first."""
    return {"root": str(root), "runs": [run_json(record, root, None) for record in records]}


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned lines; columns that hold nothing but `-` below their heading are left out."""
    columns = [
        column for column in zip(*rows, strict=True) if any(cell not in ("", "-") for cell in column[1:])
    ]
    widths = [max(len(cell) for cell in column) for column in columns]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]


def _step_json(step: StepRecord, record: RunRecord) -> dict[str, Any]:
    data = {"name": step.name, "kind": step.kind, "state": _state(step, record), "seconds": step.seconds}
    data |= {"address": step.address, "path": step.path, "error": step.error, "log": step.log}
    if step.path and (artifact := _open(step)):
        data |= {"rows": artifact.manifest["rows"], "summary": artifact.summary}
    return data


def _run_state(record: RunRecord) -> str:
    """A record that says running although its process is gone was interrupted."""
    return "interrupted" if record.state == "running" and not record.alive else record.state


def _state(step: StepRecord, record: RunRecord) -> str:
    if step.state == "running":
        return _run_state(record)
    return {"memoised": "finished before"}.get(step.state, step.state)


def _account(step: StepRecord) -> str:
    artifact = _open(step) if step.path else None
    if artifact is None or not artifact.rows.total:
        return "-"
    rows = artifact.rows
    return f"{rows.total:,} = {rows.kept:,} + {rows.dropped:,} + {rows.failed:,}"


def _note(step: StepRecord, root: Path) -> str:
    if step.error:
        return f"{step.error} ({_relative(step.log, root)})" if step.log else step.error
    if step.path:
        return _relative(step.path, root)
    if step.address:
        draft = root / "store" / step.produces / step.address[:20]
        return f"{len(list((draft / SHARDS).glob('*.json')))} shards committed"
    return "-"


def _open(step: StepRecord) -> Artifact | None:
    path = Path(step.path)
    return Artifact.open(path) if (path / "manifest.json").is_file() else None


def _relative(path: str, root: Path) -> str:
    whole = Path(path)
    base = root.absolute()
    return str(whole.relative_to(base)) if whole.is_relative_to(base) else path


def _estimate(estimate: Estimate) -> tuple[str, str, str]:
    rows = f"{estimate.rows:,}" if estimate.rows else "-"
    size = estimate.disk_bytes
    disk = "-" if not size else f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 0.1):.1f} MB"
    return rows, disk, _duration(estimate.seconds) if estimate.seconds else "-"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
