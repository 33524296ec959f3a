"""What another policy would change in a verdict: rows newly dropped and newly kept, with example keys."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool

EXAMPLES = 5
_NO_RULE = "(no rule)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Rows that change for one reason, and the first few of their keys."""

    category: str
    rule: str
    rows: int
    keys: list[str]


@dataclass(frozen=True, kw_only=True)
class Change:
    """The difference between two verdicts of the same rows.

    `newly_dropped` is grouped by the rule that drops now, `newly_kept` by the rule that dropped before;
    largest group first.  `other_reason` rows stay out, for another reason than before; `other_weight` rows
    stay in, with another weight.
    """

    rows: int
    kept_before: int
    kept_after: int
    newly_dropped: list[Group]
    newly_kept: list[Group]
    other_reason: int
    other_weight: int

    @property
    def dropped(self) -> int:
        return sum(group.rows for group in self.newly_dropped)

    @property
    def kept(self) -> int:
        return sum(group.rows for group in self.newly_kept)

    def json(self) -> dict[str, Any]:
        return asdict(self)


def compare(before: pa.Table, after: pa.Table, examples: int = EXAMPLES) -> Change:
    """Compare two verdicts row by row.  Expects the same keys in the same order, and of columns at least
    `key, keep, reason, rule, category, weight`."""
    kept, keeps = before["keep"].to_numpy(), after["keep"].to_numpy()
    reason = pc.not_equal(before["reason"], after["reason"]).to_numpy()
    weight = before["weight"].to_numpy() != after["weight"].to_numpy()
    return Change(
        rows=len(before),
        kept_before=int(kept.sum()),
        kept_after=int(keeps.sum()),
        newly_dropped=_groups(after, kept & ~keeps, examples),
        newly_kept=_groups(before, ~kept & keeps, examples),
        other_reason=int((~kept & ~keeps & reason).sum()),
        other_weight=int((kept & keeps & weight).sum()),
    )


def _groups(table: pa.Table, rows: Bool[np.ndarray, " n"], examples: int) -> list[Group]:
    """The rows by category and rule; keys are the first ones in corpus order."""
    found = table.select(["category", "rule", "key"]).filter(pa.array(rows))
    named = {
        name: pc.fill_null(found[name], _NO_RULE).combine_chunks().dictionary_encode()
        for name in ("category", "rule")
    }
    codes = {name: column.indices.to_numpy() for name, column in named.items()}
    pairs, members = np.unique(
        np.stack([codes["category"], codes["rule"]], axis=1), axis=0, return_inverse=True
    )
    groups = []
    for number, (category, rule) in enumerate(pairs):
        places = np.flatnonzero(members == number)
        groups.append(
            Group(
                category=named["category"].dictionary[int(category)].as_py(),
                rule=named["rule"].dictionary[int(rule)].as_py(),
                rows=len(places),
                keys=found["key"].take(pa.array(places[:examples])).to_pylist(),
            )
        )
    return sorted(groups, key=lambda group: (-group.rows, group.category, group.rule))
