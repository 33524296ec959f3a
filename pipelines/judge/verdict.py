"""The verdict of every input row: failed, dropped by a rule, duplicate of a kept one, or kept in a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from filters.policy import Policy, RuleHits
from filters.split import assign_split
from infra.forget import NOTHING, ForgetList
from infra.store import Artifact, Rows
from pipelines.aligned import (
    read_metadata,
    read_table,
    require_same_keys,
    require_same_shards,
)
from pipelines.forget.rows import FORGOTTEN, forgotten_rows

SUCCESS = "success"
DUPLICATE = "duplicate"
ACQUIRE, ANNOTATE = "acquire", "annotate"
_NOT_SCORES = frozenset(
    ("key", "caption", "status", "sha256", "width", "height", "phash", "dhash", "thumbnail")
)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """All input rows with their scores and their verdicts, in corpus order, and where each shard begins."""

    scores: pa.Table
    """`key, url, caption, status` and a column per score, null where a row has none."""
    verdict: pa.Table
    """`key, keep, reason, rule, category, score, weight, duplicate_of, split`."""
    groups: pa.Table
    """`cluster, rank, method` of each row, null where it was not fetched."""
    hits: list[RuleHits]
    starts: dict[str, int]


def judge_rows(
    corpus: Artifact,
    annotation: Artifact,
    clusters: Artifact,
    policy: Policy,
    *,
    keep_duplicates: bool,
    fractions: Mapping[str, float],
    seed: int,
    forgotten: ForgetList = NOTHING,
) -> Judged:
    """Verdicts of a whole corpus from its stored scores.

    Raises MisalignedError naming shard and first differing key where the artifacts are of different samples,
    and PolicyError where the policy names a score that was not computed.
    """
    parts, starts, rows = [], dict[str, int](), 0
    for shard in require_same_shards(corpus, annotation, clusters):
        part = _shard_rows(corpus, annotation, clusters, shard, forgotten)
        starts[shard], rows = rows, rows + len(part)
        parts.append(part)
    table = pa.concat_tables(parts)
    scores = table.drop_columns(["cluster", "rank", "method", "concept"])
    # Text columns are no scores, though a policy may misname them.
    numeric = scores.drop_columns([c for c in ("url", "caption") if c in scores.column_names])
    verdict = policy.decide(numeric)
    verdict = _name_failures(verdict, table)
    verdict = _without_duplicates(verdict, table, keep_duplicates)
    verdict = _with_split(verdict, table, fractions, seed)
    return Judged(
        scores=scores,
        verdict=verdict,
        groups=table.select(["cluster", "rank", "method"]),
        hits=policy.rule_hits(numeric),
        starts=starts,
    )


def reached_policy(verdict: pa.Table) -> Bool[np.ndarray, " n"]:
    """Rows that the policy saw: neither failed nor forgotten."""
    apart = (ACQUIRE, ANNOTATE, FORGOTTEN)
    return np.array([category not in apart for category in verdict["category"].to_pylist()], bool)


def account(verdict: pa.Table) -> Rows:
    """Row account of a verdict, a count per reason for every row that is not kept."""
    kept = np.array(verdict["keep"])
    categories, reasons = verdict["category"].to_pylist(), verdict["reason"].to_pylist()
    failed = sum(category in (ACQUIRE, ANNOTATE) for category in categories)
    counts = Counter(reason for reason, keep in zip(reasons, kept, strict=True) if not keep)
    return Rows(
        total=len(verdict),
        kept=int(kept.sum()),
        dropped=len(verdict) - int(kept.sum()) - failed,
        failed=failed,
        reasons=dict(sorted(counts.items())),
    )


def _shard_rows(
    corpus: Artifact, annotation: Artifact, clusters: Artifact, shard: str, forgotten: ForgetList
) -> pa.Table:
    """All input rows of a shard; scores and clusters are null where a row was not fetched."""
    rows = read_table(corpus, shard)
    metadata, groups = read_metadata(annotation, shard), read_table(clusters, shard)
    fetched = np.array(rows["status"].to_pylist(), dtype=object) == SUCCESS
    keys = [key for key, ok in zip(rows["key"].to_pylist(), fetched, strict=True) if ok]
    require_same_keys(shard, keys, metadata["key"].to_pylist(), "annotation")
    require_same_keys(shard, keys, groups["key"].to_pylist(), "clusters")
    # Position of each fetched row among the fetched ones; `take` gives null for a null position.
    place = pa.array(np.cumsum(fetched) - 1, mask=~fetched)
    status = np.array(rows["status"].to_pylist(), dtype=object)
    status[fetched] = metadata["status"].to_pylist()
    status[forgotten_rows(rows, forgotten)] = FORGOTTEN
    empty = pa.nulls(len(rows), pa.string())
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "key": rows["key"],
        "url": rows["url"] if "url" in rows.column_names else empty,
        "caption": rows["caption"] if "caption" in rows.column_names else empty,
        "status": pa.array(status, pa.string()),
        "acquired": pa.array(fetched),
    }
    for name in ("cluster", "rank", "method", "concept"):
        columns[name] = groups[name].take(place)
    for name in metadata.column_names:
        if name not in _NOT_SCORES:
            columns[name] = metadata[name].take(place)
    return pa.table(columns)


def _name_failures(verdict: pa.Table, table: pa.Table) -> pa.Table:
    """Say at which step a failed row failed: `rule` and `category` are that step's kind.  What is forgotten
    did not fail, it is dropped."""
    status, acquired = table["status"].to_pylist(), table["acquired"].to_pylist()
    steps = [_ended_at(state, got) for state, got in zip(status, acquired, strict=True)]
    for name in ("rule", "category"):
        values = [step or given for step, given in zip(steps, verdict[name].to_pylist(), strict=True)]
        verdict = _replace(verdict, name, pa.array(values, pa.string()))
    reasons = [
        FORGOTTEN if step == FORGOTTEN else reason
        for step, reason in zip(steps, verdict["reason"].to_pylist(), strict=True)
    ]
    return _replace(verdict, "reason", pa.array(reasons, pa.string()))


def _ended_at(state: str, acquired: bool) -> str | None:
    """What kept a row from being judged; None where nothing did."""
    if state in (SUCCESS, FORGOTTEN):
        return None if state == SUCCESS else FORGOTTEN
    return ANNOTATE if acquired else ACQUIRE


def _without_duplicates(verdict: pa.Table, table: pa.Table, keep_duplicates: bool) -> pa.Table:
    """Of each cluster's rows that the policy keeps, keep the one of best rank; the others name it."""
    keep = np.array(verdict["keep"])
    keys = verdict["key"].to_pylist()
    clusters, ranks = table["cluster"].to_pylist(), table["rank"].to_pylist()
    best: dict[str, int] = {}
    for row in np.flatnonzero(keep).tolist():
        known = best.get(clusters[row])
        if known is None or ranks[row] < ranks[known]:
            best[clusters[row]] = row
    copies = [row for row in np.flatnonzero(keep).tolist() if best[clusters[row]] != row]
    duplicate_of: list[str | None] = [None] * len(keys)
    for row in copies:
        duplicate_of[row] = keys[best[clusters[row]]]
    if not keep_duplicates:
        methods = table["method"].to_pylist()
        columns = {
            name: verdict[name].to_pylist() for name in ("keep", "reason", "rule", "category", "weight")
        }
        for row in copies:
            columns["keep"][row], columns["weight"][row] = False, 0.0
            columns["reason"][row] = f"{DUPLICATE}: {methods[row]}"
            columns["rule"][row], columns["category"][row] = methods[row], DUPLICATE
        for name, values in columns.items():
            verdict = _replace(verdict, name, pa.array(values, verdict.schema.field(name).type))
    return verdict.append_column("duplicate_of", pa.array(duplicate_of, pa.string()))


def _with_split(verdict: pa.Table, table: pa.Table, fractions: Mapping[str, float], seed: int) -> pa.Table:
    """A split for every kept row, by concept, so that no concept lies on both sides; empty for the others."""
    keep = np.array(verdict["keep"])
    concepts = [c for c, kept in zip(table["concept"].to_pylist(), keep, strict=True) if kept]
    split = np.full(len(verdict), "", dtype=object)
    if concepts:
        split[keep] = assign_split(concepts, fractions, seed)
    return verdict.append_column("split", pa.array(split, pa.string()))


def _replace(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
