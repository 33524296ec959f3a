"""URL lists: opened lazily, cut into shards, refused with one clear line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

import pyarrow as pa

from infra.digests import digest_of
from pipelines.acquire.config import VERIFY_HASH, Columns
from pipelines.acquire.list_files import ListFile, UrlListError, find_files
from pipelines.acquire.list_formats import FORMATS, Look, Needed, errors_of

# What a sample's JSON can hold and a shard's Parquet gives back.
CARRIED = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_decimal,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_timestamp,
    pa.types.is_null,
)
COLUMN_TYPES = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a list with the column of it that each corpus column is read from."""

    file: ListFile
    sources: dict[str, str]
    look: Look


@dataclass(frozen=True, kw_only=True)
class UrlList:
    """An opened list.  `schema` has the corpus's column names in img2dataset's order.

    `rows` is exact where every file is Parquet or a JSON array, otherwise an estimate from the files' heads.
    """

    parts: tuple[Part, ...]
    schema: pa.Schema
    rows: int

    def batches(
        self, done: Set[int] = frozenset(), shard_size: int = 1
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows in order, as (position in the list, batch of `schema`); memory does not grow with it.

        Rows of shards in `done` may be left out.  Raises `UrlListError` at a malformed row.
        """
        start = 0
        for part in self.parts:

            def needed(first: int, stop: int, start: int = start) -> bool:
                shards = range((start + first) // shard_size, (start + stop - 1) // shard_size + 1)
                return any(shard not in done for shard in shards)

            end = start
            for position, batch in self._batches_of(part, needed):
                end = start + position + batch.num_rows
                if batch.num_rows:
                    yield start + position, batch
            # A Parquet file may end in rows that were left out.
            start = start + part.look.rows if part.file.kind == ".parquet" else end

    def _batches_of(self, part: Part, needed: Needed) -> Iterator[tuple[int, pa.RecordBatch]]:
        with errors_of(part.file):
            fields = [field for field in self.schema if field.name in part.sources]
            wanted = {part.sources[field.name]: field.type for field in fields}
            for position, batch in FORMATS[part.file.kind].batches(part.file, pa.schema(wanted), needed):
                arrays = [_column(part, batch, field, position) for field in self.schema]
                yield position, pa.record_batch(arrays, schema=self.schema)


def open_url_list(url_list: str | Sequence[str], columns: Columns) -> UrlList:
    """Look at every file of a list, without reading its rows.

    `url_list` is a file, a folder or a glob, local or any URL that fsspec opens, or several of these.  Raises
    `UrlListError` where a file is missing, unreadable, of no known kind, or lacks a column, where a column
    has a type that cannot be carried, or the types of two files differ, and where there is no row.
    """
    parts = []
    for file in find_files(url_list):
        with errors_of(file):
            look = FORMATS[file.kind].look(file)
        if not look.rows and not look.columns:  # an empty file of JSON, whose columns only rows would name
            continue
        parts.append(Part(file=file, sources=_sources(file, look, columns), look=look))
    rows = sum(part.look.rows for part in parts)
    if rows == 0:
        raise UrlListError(f"URL list {_name(url_list)} is empty: expected at least one row")
    return UrlList(parts=tuple(parts), schema=_schema(parts, columns), rows=rows)


def digest_of_list(url_list: str | Sequence[str]) -> str:
    """Digest of the contents of a list's files in reading order, whatever their names."""
    try:
        return digest_of([file.digest() for file in find_files(url_list)])
    except OSError as error:
        raise UrlListError(f"URL list {_name(url_list)}: {error}") from error


def iter_shards(
    batches: Iterable[tuple[int, pa.RecordBatch]], shard_size: int, done: Set[int] = frozenset()
) -> Iterator[tuple[int, pa.Table]]:
    """Cut a list's batches into numbered tables of `shard_size` rows, without the shards in `done`.

    The last shard may be shorter.  About one shard is held at a time.
    """
    current, pending = 0, list[pa.RecordBatch]()
    for position, batch in batches:
        while batch.num_rows:
            index = position // shard_size
            part = batch.slice(0, (index + 1) * shard_size - position)
            position, batch = position + part.num_rows, batch.slice(part.num_rows)
            if pending and index != current:
                yield current, pa.Table.from_batches(pending)
                pending = []
            if index not in done:
                current = index
                pending.append(part)
    if pending:
        yield current, pa.Table.from_batches(pending)


def _name(url_list: str | Sequence[str]) -> str:
    return url_list if isinstance(url_list, str) else ", ".join(url_list)


def _sources(file: ListFile, look: Look, columns: Columns) -> dict[str, str]:
    """Corpus column -> the file's column, in img2dataset's order: extra columns, caption, hash, url."""
    sources = {name: name for name in columns.extra}
    # A plain list of addresses has no captions: that is its nature, not an error.
    if columns.caption is not None and file.kind != ".txt":
        sources["caption"] = columns.caption
    if columns.verify_hash is not None:
        sources[VERIFY_HASH] = columns.verify_hash[0]
    sources["url"] = "url" if file.kind == ".txt" else columns.url
    names = [name for name, _ in look.columns]
    for column in sources.values():
        if column not in names:
            raise UrlListError(f"URL list {file.name}: expected a column {column!r}, got {', '.join(names)}")
        if names.count(column) > 1:
            raise UrlListError(
                f"URL list {file.name}: expected one column {column!r}, got {names.count(column)}"
            )
    return sources


def _schema(parts: Sequence[Part], columns: Columns) -> pa.Schema:
    """The corpus columns' types: text for ours, the files' own for the extra ones."""
    named = dict.fromkeys(name for part in parts for name in part.sources)
    order = [*columns.extra, *(name for name in ("caption", VERIFY_HASH, "url") if name in named)]
    fields = []
    for name in order:
        carried = name in columns.extra
        kind = _carried_type(name, parts, columns) if carried else _require_text(name, parts)
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def _type_in(part: Part, name: str) -> pa.DataType:
    return dict(part.look.columns)[part.sources[name]]


def _require_text(name: str, parts: Sequence[Part]) -> pa.DataType:
    for part in parts:
        # In text the type is only a guess; the column is read as what it must be.
        if name not in part.sources or part.file.kind != ".parquet":
            continue
        kind = _type_in(part, name)
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise UrlListError(
                f"URL list {part.file.name}, column {part.sources[name]!r}: expected strings, got {kind}"
            )
    return pa.string()


def _carried_type(name: str, parts: Sequence[Part], columns: Columns) -> pa.DataType:
    if name in columns.types:
        return COLUMN_TYPES[columns.types[name]]
    for part in parts:
        kind = _type_in(part, name)
        if not any(is_kind(kind) for is_kind in CARRIED):
            raise UrlListError(
                f"URL list {part.file.name}, column {name!r}: expected numbers, strings, truth values "
                f"or times, got {kind}; leave it out of columns.extra or flatten it"
            )
    found = {str(_type_in(part, name)): part for part in parts}
    schemas = [pa.schema([(name, _type_in(part, name))]) for part in found.values()]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(name).type
    except pa.ArrowException:
        types = ", ".join(f"{kind} in {part.file.name}" for kind, part in found.items())
        raise UrlListError(
            f"URL list, column {name!r}: expected one type in all files, got {types}; "
            f"say which in columns.types, as in {{{name}: string}}"
        ) from None


def _column(part: Part, batch: pa.RecordBatch, field: pa.Field, position: int) -> pa.Array:
    """The batch's values for a corpus column, as its type and valid; raises `UrlListError` with the row."""
    if field.name not in part.sources:
        return pa.nulls(batch.num_rows, field.type)
    source = part.sources[field.name]
    column = batch.column(source)
    try:
        return _checked(column, field.type)
    except pa.ArrowException as error:
        row = next(row for row in range(len(column)) if _is_bad(column.slice(row, 1), field.type))
        raise UrlListError(
            f"URL list {part.file.name}, row {position + row + 1}, column {source!r}: "
            f"expected {field.type}, got {_shown(column[row])} ({error})"
        ) from error


def _checked(column: pa.Array, kind: pa.DataType) -> pa.Array:
    cast = column.cast(kind)
    cast.validate(full=True)
    return cast


def _shown(value: pa.Scalar) -> str:
    try:
        return repr(value.as_py())[:80]
    except UnicodeDecodeError:
        return repr(value.cast(pa.binary()).as_py())[:80]


def _is_bad(value: pa.Array, kind: pa.DataType) -> bool:
    try:
        _checked(value, kind)
    except pa.ArrowException:
        return True
    return False
