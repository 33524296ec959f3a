"""Forgetting: a request recorded, its rows found, and on demand their bytes destroyed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.digests import sha256_of_file
from infra.forget import (
    ForgetList,
    ForgetRecord,
    read_records,
    unfinished_purges,
    write_purged,
    write_record,
)
from infra.progress import Progress
from infra.store import StoreError
from pipelines.forget.find import find_rows, used_by
from pipelines.forget.purge import purge
from pipelines.forget.request import RequestError, read_request
from workflows.record import all_records
from workflows.refusal import Refusal


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a request came to.  `record` is None where nothing was written: a trial, or nothing new."""

    rows: dict[str, dict[str, list[str]]]
    """Corpus folder -> shard -> keys."""
    not_found: list[int]
    """Lines of the list that met no row."""
    used: list[dict[str, Any]]
    """Networks, models and evaluations made with the rows: `artifact`, `train`, `held_out`, `runs`."""
    record: ForgetRecord | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)
    """What a purge changed: `artifact`, `rows`, `removed` files."""


def forget(
    root: Path,
    request: Path,
    *,
    who: str,
    reason: str,
    destroy: bool = False,
    trial: bool = False,
    quiet: bool,
) -> Outcome:
    """Put what `request` names on the forget list of the store under `root`; with `destroy` purge it.

    With `trial` nothing is written.  A purge that was killed before is finished first.  The caller holds the
    root's lock.  Raises `Refusal` where the list or the store cannot be used.
    """
    store = root / "store"
    if not store.is_dir():
        raise Refusal(f"no store under {root}; give the --root of your runs")
    try:
        wanted = read_request(request)
        for record in [] if trial else unfinished_purges(store):
            outcome = _carry_out(store, record, quiet=quiet)
            if record.list_sha256 == sha256_of_file(request):
                return outcome
        found = find_rows(store, wanted)
    except (RequestError, StoreError) as error:
        raise Refusal(str(error)) from error
    used = _with_runs(root, used_by(store, found.rows))
    known = ForgetList.open(store).covers(found.forgotten)
    if trial or (known and not (destroy and found.rows)):
        return Outcome(rows=found.rows, not_found=found.missing, used=used)
    record = ForgetRecord(
        number=len(read_records(store)) + 1,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        who=who,
        reason=reason,
        list_sha256=sha256_of_file(request),
        purge=destroy,
        urls=sorted(found.forgotten.urls),
        images=sorted(found.forgotten.images),
        rows=found.rows,
        not_found=found.missing,
        used=used,
    )
    write_record(store, record)
    return _carry_out(store, record, quiet=quiet)


def _carry_out(store: Path, record: ForgetRecord, *, quiet: bool) -> Outcome:
    """Purge if the record says so, and close its audit."""
    changes = _purge(store, record, quiet=quiet) if record.purge else []
    return Outcome(
        rows=record.rows, not_found=record.not_found, used=record.used, record=record, changes=changes
    )


def _purge(store: Path, record: ForgetRecord, *, quiet: bool) -> list[dict[str, Any]]:
    progress = Progress("purge", quiet=quiet)
    try:
        changes = purge(store, record, progress)
    finally:
        progress.close()
    finished = {"record": record.number, "changes": changes, "used": record.used}
    write_purged(store, record, finished | {"when": datetime.now(UTC).isoformat(timespec="seconds")})
    return changes


def _with_runs(root: Path, used: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each use with the runs that made or took its artifact."""
    runs: dict[str, list[str]] = {}
    for record in all_records(root):
        for step in record.steps:
            runs.setdefault(f"{step.produces}/{step.address[:20]}", []).append(record.id)
    return [use | {"runs": runs.get(use["artifact"], [])} for use in used]


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome for machines; `not_found` are lines of the list."""
    rows = {
        f"corpus/{corpus}": sum(len(keys) for keys in shards.values())
        for corpus, shards in outcome.rows.items()
    }
    return {
        "record": outcome.record.number if outcome.record else None,
        "rows": rows,
        "not_found": outcome.not_found,
        "used": outcome.used,
        "changes": outcome.changes,
    }


def outcome_text(outcome: Outcome, root: Path) -> str:
    """The outcome for people."""
    told = outcome_json(outcome)
    lines = [f"{rows:>6} rows in {corpus}" for corpus, rows in told["rows"].items()]
    if told["not_found"]:
        numbers = ", ".join(map(str, told["not_found"]))
        lines.append(f"in no corpus, or purged before: line {numbers} of the list")
    for use in told["used"]:
        runs = f" (run {', '.join(use['runs'])})" if use["runs"] else ""
        lines.append(
            f"{use['artifact']}{runs}: trained on {use['train']} of them, met {use['held_out']} held out"
        )
    for change in told["changes"]:
        removed = f", removed {', '.join(change['removed'])}" if change["removed"] else ""
        lines.append(f"purged {change['artifact']}: {change['rows']} rows{removed}")
    if outcome.record is None:
        return "\n".join([*lines, "nothing was written"])
    lines.append(f"recorded as {root / 'store' / '_forgotten'}/{outcome.record.number:06d}.json")
    lines.append("the next `unclip run` judges anew and makes again what followed from these rows")
    if outcome.record.purge:
        lines.append("outside the store are left: weights trained on them, copies in MLflow, backups")
    return "\n".join(lines)
