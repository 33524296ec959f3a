"""What fetching told about each row and img2dataset's columns have no place for: one small file per shard."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("content_type", pa.string()),  # as the server claimed it; null where no body came
        ("fetched_bytes", pa.int64()),
        ("expected_hash", pa.string()),  # as the list gave it: a retry checks it again
    ]
)
Facts = dict[str, str | int | None]


def facts_file(shard: str) -> str:
    """Name of a shard's facts.  Not Parquet: neighbours take every Parquet file of a folder for metadata."""
    return f"{shard}_fetch.arrow"


def facts_table(rows: list[Facts]) -> pa.Table:
    """Facts as a table, in one chunk."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_facts(path: Path, facts: pa.Table) -> None:
    """Write the facts of a shard's rows, in the order of its Parquet."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(facts)


def read_facts(folder: Path, shard: str) -> pa.Table | None:
    """Facts of a shard's rows; None for a shard that we did not fetch."""
    path = folder / facts_file(shard)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all() if path.exists() else None
