"""URL lists: opened lazily, cut into shards, refused with one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipelines.acquire.config import Columns

FORMATS = (".parquet", ".csv", ".tsv", ".txt")


class UrlListError(ValueError):
    """A URL list that cannot be used."""


def open_url_list(path: Path, columns: Columns) -> tuple[int, Iterator[pa.RecordBatch]]:
    """Number of rows, and record batches with the corpus's column names in img2dataset's order.

    Raises `UrlListError` where the list is missing, unreadable, empty or lacks a column.
    """
    try:
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path)
            names, rows = file.schema_arrow.names, file.metadata.num_rows
        else:
            table = _read_text(path)
            names, rows = table.column_names, table.num_rows
    except (OSError, pa.ArrowException) as error:
        raise UrlListError(f"URL list {path}: {str(error).splitlines()[0]}") from error
    wanted = _wanted(path, names, columns)
    if rows == 0:
        raise UrlListError(f"URL list {path} is empty: expected at least one row")
    if path.suffix == ".parquet":
        batches = file.iter_batches(columns=list(dict.fromkeys(wanted.values())))
    else:
        batches = iter(table.to_batches())
    return rows, (_renamed(batch, wanted) for batch in batches)


def iter_shards(batches: Iterator[pa.RecordBatch], shard_size: int) -> Iterator[tuple[int, pa.Table]]:
    """Cut batches into numbered tables of `shard_size` rows, holding about one shard at a time."""
    index, held, pending = 0, 0, list[pa.RecordBatch]()
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, shard_size - held)
            batch = batch.slice(part.num_rows)
            pending.append(part)
            held += part.num_rows
            if held == shard_size:
                yield index, pa.Table.from_batches(pending)
                index, held, pending = index + 1, 0, []
    if pending:
        yield index, pa.Table.from_batches(pending)


def _read_text(path: Path) -> pa.Table:
    if path.suffix == ".txt":
        lines = path.read_text().splitlines()
        return pa.table({"url": pa.array([line.strip() for line in lines if line.strip()], pa.string())})
    if path.suffix not in FORMATS:
        raise UrlListError(f"URL list {path}: expected a file named {', '.join(FORMATS)}")
    return pa_csv.read_csv(
        path,
        parse_options=pa_csv.ParseOptions(
            delimiter="\t" if path.suffix == ".tsv" else ",", newlines_in_values=True
        ),
    )


def _wanted(path: Path, names: list[str], columns: Columns) -> dict[str, str]:
    """Corpus column -> list column, in img2dataset's order: extra columns, caption, url."""
    wanted = {name: name for name in columns.extra}
    # A plain list of addresses has no captions: that is its nature, not an error.
    if columns.caption is not None and path.suffix != ".txt":
        wanted["caption"] = columns.caption
    wanted["url"] = columns.url
    for column in wanted.values():
        if column not in names:
            raise UrlListError(f"URL list {path}: expected a column {column!r}, got {', '.join(names)}")
    return wanted


def _renamed(batch: pa.RecordBatch, wanted: dict[str, str]) -> pa.RecordBatch:
    arrays = {name: batch.column(column) for name, column in wanted.items()}
    for name in ("caption", "url"):
        if name in arrays:
            arrays[name] = arrays[name].cast(pa.string())
    return pa.RecordBatch.from_pydict(arrays)
