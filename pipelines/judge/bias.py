"""What a filter did to the words of the captions: shares of terms before and after, with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from filters.intervals import Interval, proportion_ratio
from filters.terms import Terms


def term_table(
    captions: pa.ChunkedArray,
    before: Bool[np.ndarray, " n"],
    after: Bool[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | None,
    terms: Terms,
) -> list[dict[str, Any]]:
    """A row for each term that any caption of `before` holds.

    `before`: rows that the policy saw; `after`: the kept ones among them.  `ratio` is the term's share after
    over its share before, 1 where filtering left it alone.  With `weight` also `share_weighted`, the share
    that training sees.
    """
    return list(_rows(captions, before, after, weight, terms))


def _rows(
    captions: pa.ChunkedArray,
    before: Bool[np.ndarray, " n"],
    after: Bool[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"] | None,
    terms: Terms,
) -> Iterator[dict[str, Any]]:
    total, kept = int(before.sum()), int(after.sum())
    for term, found in terms.find(captions):
        had, has = int((found & before).sum()), int((found & after).sum())
        if not had:
            continue
        interval = share_ratio(had, has, total, kept)
        row = {
            "group": term.group,
            "term": term.name,
            "before": had,
            "after": has,
            "share_before": round(had / total, 8),
            "share_after": round(has / kept, 8) if kept else None,
            "ratio": round(has * total / (had * kept), 4) if kept else None,
            "ratio_95": [round(end, 4) for end in interval],
            "shifted": not interval.low <= 1 <= interval.high,
        }
        if weight is not None:
            share = float(weight[found & after].sum() / weight[after].sum()) if kept else None
            row["share_weighted"] = None if share is None else round(share, 8)
            row["ratio_weighted"] = None if share is None else round(share * total / had, 4)
        yield row


def share_ratio(had: int, has: int, total: int, kept: int) -> Interval:
    """95 % interval of a term's share after filtering over its share before.

    What is kept is part of what was there, so the two shares are not independent.  Independent are the
    chances to be kept of captions with the term and of the others; their ratio r has a known interval, and
    with w, the term's share before, the ratio of shares is r / (w r + 1 - w), which rises with r.  A term
    of every caption has the ratio 1 whatever is kept: there are no others.
    """
    if had == total:
        return Interval(1.0, 1.0)
    w = had / total
    low, high = proportion_ratio((has, had), (kept - has, total - had))
    ends = (1 / w if np.isinf(r) else r / (w * r + 1 - w) for r in (low, high))
    return Interval(*ends)


def groups_of(table: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The table's rows by group, in the order they came."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table:
        groups.setdefault(row["group"], []).append(row)
    return groups
