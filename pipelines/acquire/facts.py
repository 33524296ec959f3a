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
    ]
)


def facts_file(shard: str) -> str:
    """Name of a shard's facts.  Not Parquet: neighbours take every Parquet file of a folder for metadata."""
    return f"{shard}_fetch.arrow"


def write_facts(path: Path, rows: list[dict[str, object]]) -> None:
    """Write the facts of a shard's rows, in the order of its Parquet."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
