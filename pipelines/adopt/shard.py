"""One foreign shard, validated and rewritten in our layout: sorted by key, dated 0.  Runs as one task."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from infra.shards import IMAGE_EXTENSIONS, write_members
from infra.store import WORK, Draft, Rows
from pipelines.acquire.shard import WRITTEN, commit_shard
from pipelines.acquire.states import State
from pipelines.adopt.source import AdoptError, SourceShard
from pipelines.adopt.states import state_of
from pipelines.adopt.tar import TarSamples, image_of, open_samples

# What a reader of shards looks at; other members are copied unseen.
JUDGED_MEMBERS = frozenset((*IMAGE_EXTENSIONS, "txt", "json"))
ODDITIES = ("captions_missing", "captions_not_utf8", "captions_differ", "other_members")
"""Counted in the summary, and no error: the bytes stay as they are."""
KNOWN = {"url": pa.string(), "caption": pa.string(), **dict(WRITTEN), "sha256": pa.string()}


@dataclass(frozen=True, kw_only=True)
class AdoptJob:
    """One shard of the folder, and where it goes."""

    draft: Draft
    source: SourceShard


def adopt_shard(job: AdoptJob) -> Rows | str:
    """Validate, rewrite and commit one shard; returns its row account, or a line on what is wrong with it."""
    try:
        with open_samples(job.source.tar) as samples:
            return _adopt(job, samples)
    except AdoptError as error:  # told together with the other shards' when all are seen
        return str(error)


def _adopt(job: AdoptJob, samples: TarSamples) -> Rows:
    source = job.source
    table = _complete(read_rows(source) if source.parquet else rows_of_members(samples))
    table = table.sort_by("key").combine_chunks()
    rows = {row["key"]: row for row in table.to_pylist()}
    if len(rows) != table.num_rows:
        keys = table["key"].to_pylist()
        twice = next(a for a, b in pairwise(keys) if a == b)
        raise AdoptError(f"{source.parquet}: key {twice} is there twice; download the shard anew")
    _require_same_keys(source, rows, samples)
    unlisted = _unlisted(source, rows)
    digests: dict[str, str] = {}
    odd = dict.fromkeys(ODDITIES, 0)
    tar = job.draft.temporary(f"{source.name}.tar")
    write_members(tar, _members(samples, rows, digests, odd))
    if digests:
        table = _with_digests(table, digests)
    # What is not to be seen from the shard itself, for the summary; a resumed run finds it here.
    facts = {"hashed": len(digests), "unlisted": unlisted, **odd}
    job.draft.write_bytes(facts_file(source.name), json.dumps(facts).encode())
    return commit_shard(job.draft, source.name, tar, table, facts=None)


def facts_file(name: str) -> str:
    """`hashed` samples of the shard got the digest of their bytes as stored, `unlisted` rows it never had."""
    return f"{WORK}/adopted/{name}.json"


def read_rows(source: SourceShard) -> pa.Table:
    """The rows of the shard's Parquet with their statuses mapped; raises `AdoptError` naming file and row."""
    try:
        table = pq.read_table(source.parquet)
    except (OSError, pa.ArrowException) as error:
        raise AdoptError(
            f"{source.parquet}: cannot be read: {str(error).splitlines()[0]}; download the shard anew"
        ) from error
    for name in ("key", "status"):
        if name not in table.column_names:
            found = ", ".join(table.column_names)
            raise AdoptError(f"{source.parquet}: expected img2dataset's column {name!r}, got {found}")
    messages = table["error_message"] if "error_message" in table.column_names else pa.nulls(table.num_rows)
    states: list[str] = []
    for status, message in zip(table["status"].to_pylist(), messages.to_pylist(), strict=True):
        state = state_of(status, message)
        if state is None:
            raise AdoptError(
                f"{source.parquet}: row {len(states)}: expected a status of img2dataset's, got {status!r}"
            )
        states.append(str(state))
    where = table.column_names.index("status")
    return table.set_column(where, "status", pa.array(states, pa.string()))


def rows_of_members(samples: TarSamples) -> pa.Table:
    """Rows put together from the samples' JSON and caption, for a shard that came without Parquet.

    Fields that img2dataset does not know become text columns.
    """
    rows = [_row_of_members(samples, key) for key in sorted(samples.places)]
    extras = sorted({name for row in rows for name in row} - KNOWN.keys())
    for row in rows:
        for name in extras:
            value = row.get(name)
            row[name] = (
                value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)
            )
    schema = pa.schema([*((name, pa.string()) for name in extras), *KNOWN.items()])
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, TypeError) as error:
        raise AdoptError(f"{samples.path}: a JSON member has a field of another type: {error}") from error


def _row_of_members(samples: TarSamples, key: str) -> dict[str, Any]:
    members = samples.read(key)
    row: dict[str, Any] = _metadata(samples, key, members)
    row |= {"key": key, "status": str(State.OK), "error_message": None}
    row.setdefault("caption", _text(members["txt"]) if "txt" in members else None)
    if row.get("width") is None or row.get("height") is None:
        try:
            row["width"], row["height"] = Image.open(io.BytesIO(image_of(members))).size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise AdoptError(f"{samples.path}: sample {key}: is no image: {error}") from error
    return row


def _metadata(samples: TarSamples, key: str, members: dict[str, bytes]) -> dict[str, Any]:
    try:
        found = json.loads(members.get("json", b"{}"))
    except ValueError as error:
        raise AdoptError(f"{samples.path}: member {key}.json: is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise AdoptError(f"{samples.path}: member {key}.json: expected an object, got {str(found)[:40]}")
    return found


def _complete(table: pa.Table) -> pa.Table:
    """The table with every column that readers of a corpus expect, text as plain strings."""
    for name, kind in KNOWN.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, kind))
        elif kind == pa.string() and table.schema.field(name).type != kind:
            table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    return table.replace_schema_metadata(None)


def _require_same_keys(source: SourceShard, rows: dict[str, dict[str, Any]], samples: TarSamples) -> None:
    """Every image has its row that says success, and every such row its image."""
    listed = {key for key, row in rows.items() if row["status"] == State.OK}
    if missing := sorted(listed - samples.places.keys()):
        raise AdoptError(
            f"{source.tar}: {len(missing)} images are missing that {source.name}.parquet lists as fetched, "
            f"first {missing[0]}; download the shard anew, or move {source.name}.* away"
        )
    if stray := sorted(samples.places.keys() - listed):
        raise AdoptError(
            f"{source.parquet}: {len(stray)} images of {source.name}.tar have no row here that says success, "
            f"first {stray[0]}; download the shard anew, or move {source.name}.* away"
        )


def _unlisted(source: SourceShard, rows: dict[str, dict[str, Any]]) -> int:
    """How many rows img2dataset counted and did not write; raises where its successes are not the images."""
    if source.stats is None:
        return 0
    try:
        stats = json.loads(source.stats.read_bytes())
        count, successes = int(stats["count"]), int(stats["successes"])
    except (ValueError, KeyError, TypeError) as error:
        raise AdoptError(f"{source.stats}: cannot be read ({error!r}); move it away") from error
    found = sum(row["status"] == State.OK for row in rows.values())
    if successes != found or count < len(rows):
        raise AdoptError(
            f"{source.stats}: counts {successes} successes of {count} rows, but the shard has {found} "
            f"of {len(rows)}; are the files of one download?"
        )
    return count - len(rows)


def _members(
    samples: TarSamples,
    rows: dict[str, dict[str, Any]],
    digests: dict[str, str],
    odd: dict[str, int],
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples in key order, with the members that ours have; notes the digests it had to compute, and counts
    what is odd: captions that are missing, no UTF-8, or others in the Parquet or JSON than in the `txt` that
    is judged, and members that nothing judges."""
    for key in sorted(samples.places):
        members, row = samples.read(key), rows[key]
        metadata = _metadata(samples, key, members) if "json" in members else row
        if row["sha256"] is None:
            digests[key] = hashlib.sha256(image_of(members)).hexdigest()
            metadata = metadata | {"sha256": digests[key]}
        if row["sha256"] is None or "json" not in members:
            members["json"] = json.dumps(metadata, indent=4, default=str).encode()
        judged, told = _text(members.get("txt", b"")), (row["caption"], metadata.get("caption"))
        odd["captions_differ"] += "txt" in members and any(
            other is not None and str(other).strip() != judged.strip() for other in told
        )
        odd["other_members"] += len(members.keys() - JUDGED_MEMBERS)
        members.setdefault("txt", (row["caption"] or "").encode())
        odd["captions_missing"] += not members["txt"].strip()
        odd["captions_not_utf8"] += not _is_utf8(members["txt"])
        yield key, members


def _text(caption: bytes) -> str:
    """As annotation reads it."""
    return caption.decode("utf-8", errors="replace")


def _is_utf8(text: bytes) -> bool:
    """Whether it is text in UTF-8; UTF-16 of ASCII decodes too, with a NUL beside every letter."""
    if b"\0" in text:
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _with_digests(table: pa.Table, digests: dict[str, str]) -> pa.Table:
    values = [
        digests.get(key, known)
        for key, known in zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True)
    ]
    return table.set_column(table.column_names.index("sha256"), "sha256", pa.array(values, pa.string()))
