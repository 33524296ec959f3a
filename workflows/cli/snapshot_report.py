"""What `unclip retry` and `unclip append` print at their end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from workflows.next_snapshot import Outcome

ASKED, RECOVERED, ADDED = "rows_asked_again", "rows_recovered", "rows_added"


def say(outcome: Outcome, *, nothing: str, as_json: bool) -> None:
    """Print the end of the run and what the new snapshot is; or that there was `nothing` to do."""
    click.echo(json.dumps(_json(outcome), indent=1) if as_json else _text(outcome, nothing))


def _text(outcome: Outcome, nothing: str) -> str:
    name = outcome.newest.address[:20]
    if outcome.execution is None:
        states = ", ".join(f"{state} {count:,}" for state, count in outcome.newest.rows.reasons.items())
        return f"{nothing} (snapshot {name}, failed rows: {states or 'none'})"
    figures = outcome.newest.summary
    did = (
        f"{figures[ASKED]:,} rows asked again, {figures[RECOVERED]:,} recovered"
        if ASKED in figures
        else f"{figures[ADDED]:,} rows added"
    )
    return f"{outcome.execution.text()}\nsnapshot {name} after {outcome.parent.address[:20]}: {did}"


def _json(outcome: Outcome) -> dict[str, Any]:
    figures = outcome.newest.summary if outcome.execution else {}
    data = {"snapshot": outcome.newest.address, "parent": outcome.parent.address}
    data |= {name: figures.get(name, 0) for name in (ASKED, RECOVERED, ADDED)}
    return data | (outcome.execution.json() if outcome.execution else {"run": None})
