"""How each kind of URL list is read: its columns from the head, then record batches in bounded memory.

Only a JSON array is read whole.  A malformed row raises `UrlListError` with file, row and column.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from pipelines.acquire.list_files import ListFile, UrlListError

HEAD_BYTES = 2**20
BLOCK_BYTES = 8 * 2**20
MAX_LINE_BYTES = 64 * 2**20
BATCH_ROWS = 65_536
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# How Arrow words what is wrong with a row of CSV.
CSV_CONVERSION = re.compile(r"In CSV column #(\d+): Row #(\d+): CSV conversion error to (\w+): (.*)")
CSV_FIELDS = re.compile(r"CSV parse error: Row #(\d+): Expected (.*)")

Needed = Callable[[int, int], bool]
"""Whether any of the rows [start, stop) of a file is wanted; a format may leave out those that are not."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a file says of itself: column names and types in its order, and its number of rows.

    The number is exact for Parquet and JSON arrays, and estimated from the head of the others.
    """

    columns: Sequence[tuple[str, pa.DataType]]
    rows: int


class Format(Protocol):
    """One kind of file.  `batches` yields (position of the first row in the file, batch of `schema`)."""

    def look(self, file: ListFile) -> Look: ...

    def batches(
        self, file: ListFile, schema: pa.Schema, needed: Needed
    ) -> Iterator[tuple[int, pa.RecordBatch]]: ...


@contextmanager
def errors_of(file: ListFile) -> Iterator[None]:
    """Turn what reading a damaged file raises into one line that names the file."""
    try:
        yield
    except UrlListError:
        raise
    except (OSError, EOFError, UnicodeError, zlib.error, pa.ArrowException) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UrlListError(f"URL list {file.name}: {lines[0]}") from error


class Parquet:
    """Row groups that hold no wanted row are skipped by the file's own metadata."""

    def look(self, file: ListFile) -> Look:
        with _parquet(file) as opened:
            schema = opened.schema_arrow
            columns = [(field.name, _plain(field.type)) for field in schema]
            return Look(columns=columns, rows=opened.metadata.num_rows)

    def batches(
        self, file: ListFile, schema: pa.Schema, needed: Needed
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        position = 0
        with _parquet(file) as opened:
            for group in range(opened.metadata.num_row_groups):
                rows = opened.metadata.row_group(group).num_rows
                if not needed(position, position + rows):
                    position += rows
                    continue
                for batch in opened.iter_batches(BATCH_ROWS, row_groups=[group], columns=schema.names):
                    yield position, batch
                    position += batch.num_rows


@dataclass(frozen=True)
class Delimited:
    """CSV with quotes as RFC 4180 has them, or the same with tabs.  The first row names the columns."""

    delimiter: str

    def look(self, file: ListFile) -> Look:
        data, share = file.head(HEAD_BYTES)
        with file.open() as stream:
            try:
                columns = [(field.name, _text_type(field.type)) for field in self._reader(stream).schema]
            except pa.ArrowInvalid as error:
                raise self._told(file, error) from error
        return Look(columns=columns, rows=max(round(_lines(data) / share) - 1, 0))

    def batches(
        self,
        file: ListFile,
        schema: pa.Schema,
        needed: Needed,  # noqa: ARG002
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        with file.open() as stream:
            try:
                yield from _placed(self._reader(stream, schema))
            except pa.ArrowInvalid as error:
                raise self._told(file, error) from error

    def _told(self, file: ListFile, error: pa.ArrowInvalid) -> Exception:
        """Arrow's error in our words, with the column's name; the header is row 1."""
        if found := CSV_CONVERSION.match(str(error)):
            index, row, kind, problem = found.groups()
            name, _ = self.look(file).columns[int(index)]
            return UrlListError(
                f"URL list {file.name}, row {row}, column {name!r}: expected {kind}, got {problem}"
            )
        if found := CSV_FIELDS.match(str(error).splitlines()[0]):
            return UrlListError(f"URL list {file.name}, row {found[1]}: expected {found[2]}")
        return error

    def _reader(self, stream: IO[bytes], schema: pa.Schema | None = None) -> pa_csv.CSVStreamingReader:
        wanted = {"include_columns": schema.names, "column_types": schema} if schema is not None else {}
        return pa_csv.open_csv(
            stream,
            # Threads would cost the row's number in error messages.
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=pa_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(**wanted),
        )


class JsonLines:
    """One object a line; a column that a line lacks is null there."""

    def look(self, file: ListFile) -> Look:
        data, share = file.head(HEAD_BYTES)
        whole = data if share == 1.0 else data[: data.rfind(b"\n") + 1]
        objects = [found for _, found in _objects(file, 1, whole)]
        return Look(columns=_columns_of(objects), rows=round(_lines(data) / share))

    def batches(
        self,
        file: ListFile,
        schema: pa.Schema,
        needed: Needed,  # noqa: ARG002
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        with file.open() as stream:
            yield from _placed(
                _object_batch(file, list(_objects(file, line, block)), schema, unit="line")
                for line, block in _line_blocks(file, stream)
            )


class JsonArray:
    """An array of objects.  It is held in memory whole: above some million rows, JSONL is the format."""

    def look(self, file: ListFile) -> Look:
        objects = self._load(file)
        return Look(columns=_columns_of(objects[:BATCH_ROWS]), rows=len(objects))

    def batches(
        self,
        file: ListFile,
        schema: pa.Schema,
        needed: Needed,  # noqa: ARG002
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        objects = self._load(file)
        for start in range(0, len(objects), BATCH_ROWS):
            numbered = list(enumerate(objects[start : start + BATCH_ROWS], start + 1))
            yield start, _object_batch(file, numbered, schema, unit="row")

    def _load(self, file: ListFile) -> list[dict[str, Any]]:
        with file.open() as stream:
            data = stream.read()
        try:
            found = json.loads(data)
        except ValueError as error:
            raise UrlListError(f"URL list {file.name}: broken JSON: {error}") from None
        if not isinstance(found, list):
            kind = type(found).__name__
            raise UrlListError(
                f"URL list {file.name}: expected an array of objects, got {kind}; "
                "one object a line is named .jsonl"
            )
        for row, value in enumerate(found, start=1):
            _require_object(file, f"row {row}", value)
        return found


class PlainLines:
    """One address a line, under the name `url`; blank lines are no rows."""

    def look(self, file: ListFile) -> Look:
        data, share = file.head(HEAD_BYTES)
        lines = sum(1 for line in data.split(b"\n") if line.strip())
        return Look(columns=[("url", pa.string())], rows=round(lines / share))

    def batches(
        self,
        file: ListFile,
        schema: pa.Schema,
        needed: Needed,  # noqa: ARG002
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        with file.open() as stream:
            yield from _placed(
                pa.record_batch([pa.array(_addresses(file, line, block), pa.string())], schema=schema)
                for line, block in _line_blocks(file, stream)
            )


FORMATS: dict[str, Format] = {
    ".parquet": Parquet(),
    ".csv": Delimited(","),
    ".tsv": Delimited("\t"),
    ".json": JsonArray(),
    ".jsonl": JsonLines(),
    ".txt": PlainLines(),
}


@contextmanager
def _parquet(file: ListFile) -> Iterator[pq.ParquetFile]:
    if file.local:
        with pq.ParquetFile(file.path) as opened:
            yield opened
    else:
        with file.open() as stream, pq.ParquetFile(stream) as opened:
            yield opened


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of a dictionary's values: how a column is stored is no concern of its reader."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _text_type(guessed: pa.DataType) -> pa.DataType:
    """The type of a text file's column as guessed from its head; what looks like a date stays as written."""
    temporal = pa.types.is_temporal(guessed)
    return pa.string() if temporal or pa.types.is_null(guessed) else guessed


def _lines(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n") and bool(data))


def _line_blocks(file: ListFile, stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines, each with the number of its first line, counted from 1."""
    first, rest = 1, b""
    while data := stream.read(BLOCK_BYTES):
        rest += data
        if first == 1:
            rest = rest.removeprefix(BYTE_ORDER_MARK)
        end = rest.rfind(b"\n") + 1
        if end:
            yield first, rest[: end - 1]
            first, rest = first + rest.count(b"\n", 0, end), rest[end:]
        elif len(rest) > MAX_LINE_BYTES:
            raise UrlListError(f"URL list {file.name}: line {first} is longer than {MAX_LINE_BYTES} bytes")
    if rest:
        yield first, rest


def _placed(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Each batch with the number of its first row."""
    position = 0
    for batch in batches:
        yield position, batch
        position += batch.num_rows


def _addresses(file: ListFile, first: int, block: bytes) -> list[str]:
    numbered = enumerate(block.split(b"\n"), start=first)
    return [_decoded(file, line, stripped) for line, text in numbered if (stripped := text.strip())]


def _decoded(file: ListFile, line: int, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UrlListError(f"URL list {file.name}, line {line}: expected UTF-8, got {data[:40]!r}") from None


def _objects(file: ListFile, first: int, block: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(block.removeprefix(BYTE_ORDER_MARK).split(b"\n"), start=first):
        if text.strip():
            try:
                value = json.loads(text)
            except ValueError as error:
                raise UrlListError(f"URL list {file.name}, line {line}: broken JSON: {error}") from None
            _require_object(file, f"line {line}", value)
            yield line, value


def _require_object(file: ListFile, where: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise UrlListError(f"URL list {file.name}, {where}: expected an object, got {type(value).__name__}")


def _columns_of(objects: Sequence[dict[str, Any]]) -> list[tuple[str, pa.DataType]]:
    """Names in order of appearance, with the type of the values; where they differ, text."""
    columns = []
    for name in dict.fromkeys(name for found in objects for name in found):
        try:
            guessed = pa.array([found.get(name) for found in objects]).type
        except (pa.ArrowException, OverflowError, UnicodeError):
            guessed = pa.string()
        columns.append((name, _text_type(guessed)))
    return columns


def _object_batch(
    file: ListFile, numbered: Sequence[tuple[int, dict[str, Any]]], schema: pa.Schema, *, unit: str
) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        values = [found.get(field.name) for _, found in numbered]
        try:
            arrays.append(pa.array(values, field.type))
        except (pa.ArrowException, OverflowError, UnicodeError) as error:
            number, value = next(
                (n, v) for (n, _), v in zip(numbered, values, strict=True) if _is_not(v, field)
            )
            raise UrlListError(
                f"URL list {file.name}, {unit} {number}, column {field.name!r}: "
                f"expected {field.type}, got {json.dumps(value)[:80]}"
            ) from error
    return pa.record_batch(arrays, schema=schema)


def _is_not(value: Any, field: pa.Field) -> bool:
    try:
        pa.array([value], field.type)
    except (pa.ArrowException, OverflowError, UnicodeError):
        return True
    return False
