"""The verdict of every input row: failed, dropped by a rule, duplicate of a kept one, or kept in a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool

from filters.policy import Policy, RuleHits
from filters.split import assign_split
from infra.forget import NOTHING, ForgetList
from infra.store import Artifact, Rows
from pipelines.aligned import (
    metadata_file,
    read_metadata,
    read_table,
    require_same_keys,
    require_same_shards,
)
from pipelines.forget.rows import FORGOTTEN, forgotten_rows

SUCCESS = "success"
DUPLICATE = "duplicate"
ACQUIRE, ANNOTATE = "acquire", "annotate"
_ROW = ("key", "url", "caption", "status", "sha256")
_NOT_SCORES = frozenset(
    ("key", "caption", "status", "sha256", "width", "height", "phash", "dhash", "thumbnail")
)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """All input rows with their scores and their verdicts, in corpus order, and where each shard begins."""

    scores: pa.Table
    """`key, url, caption, status` and a column per score, null where a row has none; the caption as it was
    judged, where it was."""
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
    scores = table.drop_columns(["cluster", "rank", "method", "concept", "acquired"])
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


def score_columns(annotation: Artifact, shard: str) -> list[str]:
    """Names of the scores that an annotation holds, as its metadata of one shard has them."""
    names = pq.read_schema(annotation.path / metadata_file(shard)).names
    return [name for name in names if name not in _NOT_SCORES]


def account(verdict: pa.Table) -> Rows:
    """Row account of a verdict, a count per reason for every row that is not kept."""
    keep = verdict["keep"].to_numpy()
    failed = pc.is_in(verdict["category"], value_set=pa.array([ACQUIRE, ANNOTATE])).to_numpy()
    counts = pc.value_counts(verdict["reason"].filter(pa.array(~keep))).to_pylist()
    return Rows(
        total=len(verdict),
        kept=int(keep.sum()),
        dropped=len(verdict) - int(keep.sum()) - int(failed.sum()),
        failed=int(failed.sum()),
        reasons={
            entry["values"]: entry["counts"] for entry in sorted(counts, key=lambda e: str(e["values"]))
        },
    )


def _shard_rows(
    corpus: Artifact, annotation: Artifact, clusters: Artifact, shard: str, forgotten: ForgetList
) -> pa.Table:
    """All input rows of a shard; scores and clusters are null where a row was not fetched."""
    known = set(pq.read_schema(corpus.path / f"{shard}.parquet").names)
    rows = read_table(corpus, shard, [name for name in _ROW if name in known])
    # Fingerprints weigh more than all scores together, and no verdict reads them.
    names = score_columns(annotation, shard)
    metadata, groups = (
        read_metadata(annotation, shard, ["key", "caption", "status", *names]),
        read_table(clusters, shard),
    )
    success = pc.fill_null(pc.equal(rows["status"], SUCCESS), False)
    fetched = success.to_numpy()
    keys = rows["key"].filter(success)
    for what, other in (("annotation", metadata["key"]), ("clusters", groups["key"])):
        if not keys.equals(other):
            require_same_keys(shard, keys.to_pylist(), other.to_pylist(), what)
    # Position of each fetched row among the fetched ones; `take` gives null for a null position.
    place = pa.array(np.cumsum(fetched) - 1, mask=~fetched)
    status = pc.if_else(success, metadata["status"].take(place), rows["status"])
    status = pc.if_else(pa.array(forgotten_rows(rows, forgotten)), FORGOTTEN, status)
    empty = pa.nulls(len(rows), pa.string())
    own_caption = rows["caption"].cast(pa.string()) if "caption" in known else empty
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "key": rows["key"],
        "url": rows["url"] if "url" in known else empty,
        # The corpus may have another one in its Parquet than beside the image, where annotation reads it.
        "caption": pc.coalesce(metadata["caption"].take(place), own_caption),
        "status": status,
        "acquired": pa.array(fetched),
    }
    for name in ("cluster", "rank", "method", "concept"):
        columns[name] = groups[name].take(place)
    for name in names:
        columns[name] = metadata[name].take(place)
    return pa.table(columns)


def _name_failures(verdict: pa.Table, table: pa.Table) -> pa.Table:
    """Say at which step a failed row failed: `rule` and `category` are that step's kind.  What is forgotten
    did not fail, it is dropped."""
    status = pc.fill_null(table["status"], "")
    judged, forgotten = pc.equal(status, SUCCESS), pc.equal(status, FORGOTTEN)
    step = pc.if_else(forgotten, FORGOTTEN, pc.if_else(table["acquired"], ANNOTATE, ACQUIRE))
    for name in ("rule", "category"):
        verdict = _replace(verdict, name, pc.if_else(judged, verdict[name], step))
    return _replace(verdict, "reason", pc.if_else(forgotten, FORGOTTEN, verdict["reason"]))


def _without_duplicates(verdict: pa.Table, table: pa.Table, keep_duplicates: bool) -> pa.Table:
    """Of each cluster's rows that the policy keeps, keep the one of best rank; the others name it."""
    keep = verdict["keep"].to_numpy()
    best = _best_copies(table, keep)
    copies = keep & (best != np.arange(len(keep)))
    copy = pa.array(copies)
    if not keep_duplicates:
        method = table["method"]
        changed = {
            "keep": pa.array(keep & ~copies),
            "reason": pc.binary_join_element_wise(DUPLICATE, method, ": "),
            "rule": method,
            "category": pa.scalar(DUPLICATE),
            "weight": pa.scalar(0.0, pa.float32()),
        }
        for name, values in changed.items():
            verdict = _replace(verdict, name, pc.if_else(copy, values, verdict[name]))
    original = verdict["key"].take(pa.array(best, mask=~copies))
    return verdict.append_column("duplicate_of", original)


def _best_copies(table: pa.Table, keep: Bool[np.ndarray, " n"]) -> np.ndarray:
    """For each row the row that its cluster keeps: of those the policy keeps the one of best rank, then the
    first.  Of rows that are not kept the number means nothing."""
    rows = np.flatnonzero(keep)
    best = np.arange(len(keep))
    codes = _codes(table["cluster"])[rows]
    ranks = table["rank"].to_numpy()[rows]
    order = np.lexsort((rows, ranks, codes))
    first = np.r_[True, np.diff(codes[order]) != 0][: len(order)]
    best[rows[order]] = rows[order][np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    return best


def _with_split(verdict: pa.Table, table: pa.Table, fractions: Mapping[str, float], seed: int) -> pa.Table:
    """A split for every kept row, by concept, so that no concept lies on both sides; empty for the others."""
    concepts = table["concept"].filter(verdict["keep"]).combine_chunks().dictionary_encode()
    split = np.full(len(verdict), "", dtype=object)
    if len(concepts):
        of_concept = assign_split(concepts.dictionary.to_pylist(), fractions, seed)
        split[verdict["keep"].to_numpy()] = of_concept[concepts.indices.to_numpy()]
    return verdict.append_column("split", pa.array(split, pa.string()))


def _codes(values: pa.ChunkedArray) -> np.ndarray:
    """A number for each distinct text, equal for equal ones; null is one of them."""
    encoded = values.combine_chunks().dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy()


def _replace(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)
