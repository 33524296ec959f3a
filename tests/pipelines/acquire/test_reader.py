"""URL lists: every kind read alike, order kept, cut exactly, refused with one clear line."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from itertools import accumulate
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.acquire import list_formats
from pipelines.acquire.config import AcquireConfig, Columns
from pipelines.acquire.reader import UrlList, UrlListError, iter_shards, open_url_list
from pipelines.acquire.step import Acquire

LINKS = Columns(url="link", caption="text", extra=("licence",))
TABLE = pa.table({"link": ["u0", "u1", "u2"], "text": ["a,\nb", "ü", "c"], "licence": [1, 2, 3]})
KINDS = ["parquet", "csv", "tsv", "json", "jsonl"]


def encoded(kind: str, table: pa.Table = TABLE) -> bytes:
    sink = pa.BufferOutputStream()
    if kind == "parquet":
        pq.write_table(table, sink, row_group_size=2)
    elif kind in ("csv", "tsv"):
        delimiter = "\t" if kind == "tsv" else ","
        pyarrow.csv.write_csv(table, sink, pyarrow.csv.WriteOptions(delimiter=delimiter))
    elif kind == "json":
        return json.dumps(table.to_pylist(), indent=1).encode()
    else:
        return "\n".join(json.dumps(row) for row in table.to_pylist()).encode()
    return sink.getvalue().to_pybytes()


def write(path: Path, table: pa.Table = TABLE) -> Path:
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    data = encoded(kind, table)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table_of(opened: UrlList) -> pa.Table:
    return pa.Table.from_batches([batch for _, batch in opened.batches()], schema=opened.schema)


def problem_of(path: Path | str, columns: Columns = LINKS) -> str:
    """The one line that opening and reading a list ends with."""
    with pytest.raises(UrlListError) as caught:
        table_of(open_url_list(str(path), columns))
    assert "\n" not in str(caught.value)
    return str(caught.value)


NAMES = [f"list.{kind}" for kind in KINDS]


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}.gz" for name in NAMES[1:])])
def test_columns_come_out_in_the_corpus_order(tmp_path: Path, name: str) -> None:
    opened = open_url_list(str(write(tmp_path / name)), LINKS)
    assert opened.schema.names == ["licence", "caption", "url"]
    assert table_of(opened).to_pydict() == {
        "licence": [1, 2, 3],
        "caption": ["a,\nb", "ü", "c"],
        "url": ["u0", "u1", "u2"],
    }


def test_a_plain_list_has_urls_only(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfhttp://a/1.png\r\n\nhttp://a/2.png")
    opened = open_url_list(str(path), Columns())
    assert (opened.rows, table_of(opened).to_pydict()) == (2, {"url": ["http://a/1.png", "http://a/2.png"]})


def test_rows_are_counted_without_reading_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_formats, "HEAD_BYTES", 2**16)
    table = pa.table({"link": [f"http://a/{i:08d}" for i in range(20_000)]})
    columns = Columns(url="link", caption=None)
    for name in ("list.parquet", "list.json"):
        assert open_url_list(str(write(tmp_path / name, table)), columns).rows == 20_000
    for name in ("list.csv", "list.csv.gz", "list.jsonl"):
        assert open_url_list(str(write(tmp_path / name, table)), columns).rows == pytest.approx(2e4, rel=0.1)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_blocks_of_text_join_without_a_seam(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [f"http://a/{'x' * (i % 7)}{i}" for i in range(200)]
    path = tmp_path / f"list.{kind}"
    if kind == "txt":
        path.write_text("\n".join(urls))
    else:
        write(path, pa.table({"url": urls}))
    monkeypatch.setattr(list_formats, "BLOCK_BYTES", 64)
    opened = open_url_list(str(path), Columns(caption=None))
    batches = list(opened.batches())
    assert len(batches) > 10
    assert [position for position, _ in batches] == [
        0,
        *accumulate(batch.num_rows for _, batch in batches[:-1]),
    ]
    assert table_of(opened)["url"].to_pylist() == urls


def test_folders_globs_and_several_lists_are_read_in_order_of_name(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for index, name in enumerate(["c.csv", "a.jsonl.gz", "b.parquet"]):
        write(folder / name, pa.table({"link": [name], "text": ["t"], "licence": [index]}))
    (folder / "_SUCCESS").touch()
    expected = ["a.jsonl.gz", "b.parquet", "c.csv"]
    assert table_of(open_url_list(str(folder), LINKS))["url"].to_pylist() == expected
    assert table_of(open_url_list(f"{folder}/[a-b].*", LINKS))["url"].to_pylist() == expected[:2]
    several = [str(folder / "c.csv"), f"{folder}/a*"]
    assert table_of(open_url_list(several, LINKS))["url"].to_pylist() == ["c.csv", "a.jsonl.gz"]
    assert "no such file" in problem_of(folder / "d.csv")
    assert "no files there" in problem_of(f"{folder}/*.tsv")
    (folder / "notes.md").touch()
    assert "notes.md: expected a file named .parquet" in problem_of(folder)
    write(folder / "d.csv", pa.table({"link": ["u"]}))
    assert "d.csv: expected a column 'licence'" in problem_of(f"{folder}/*.csv")


@pytest.mark.parametrize("kind", KINDS)
def test_lists_lie_wherever_fsspec_reads(kind: str) -> None:
    url = f"memory://lists/{kind}/list.{kind}"
    files = fsspec.filesystem("memory")
    files.pipe(url, encoded(kind))
    assert table_of(open_url_list(f"memory://lists/{kind}", LINKS))["url"].to_pylist() == ["u0", "u1", "u2"]
    before = Acquire().identity(AcquireConfig(url_list=url))
    assert Acquire().identity(AcquireConfig(url_list=url)) == before
    files.pipe(url, encoded(kind, TABLE.slice(1)))
    assert Acquire().identity(AcquireConfig(url_list=url)) != before
    files.rm(url)
    assert "nosuch://x/list.csv: ValueError" in problem_of("nosuch://x/list.csv")


def test_extra_columns_keep_their_types(tmp_path: Path) -> None:
    columns = {
        "url": ["u"],
        "flag": [True],
        "score": [0.5],
        "price": pa.array([Decimal("1.50")]),
        "seen": pa.array([0], pa.timestamp("ms")),
        "site": pa.array(["s"]).dictionary_encode(),
    }
    path = write(tmp_path / "list.parquet", pa.table(columns))
    opened = open_url_list(str(path), Columns(caption=None, extra=tuple(columns)[1:]))
    types = [str(field.type) for field in opened.schema]
    assert types == ["bool", "double", "decimal128(3, 2)", "timestamp[ms]", "string", "string"]
    assert table_of(opened)["site"].to_pylist() == ["s"]


def test_types_of_several_files_are_joined_or_the_recipe_says_which(tmp_path: Path) -> None:
    for name, values in (("a.csv", [1, 2]), ("b.jsonl", [0.5, None]), ("c.csv", ["x", "2020-01-01"])):
        write(tmp_path / name, pa.table({"url": ["u", "v"], "size": values}))
    columns = Columns(caption=None, extra=("size",))
    numbers = open_url_list([str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")], columns)
    assert table_of(numbers)["size"].to_pylist() == [1.0, 2.0, 0.5, None]
    line = problem_of(f"{tmp_path}/*.csv", columns)
    assert "column 'size': expected one type" in line and "columns.types" in line
    said = columns.model_copy(update={"types": {"size": "string"}})
    texts = open_url_list(f"{tmp_path}/*.csv", said)
    assert table_of(texts)["size"].to_pylist() == ["1", "2", "x", "2020-01-01"]


@given(
    sizes=st.lists(st.integers(min_value=0, max_value=25), max_size=12),
    shard_size=st.integers(min_value=1, max_value=12),
    done=st.frozensets(st.integers(min_value=0, max_value=20)),
)
def test_shards_are_cut_exactly_whatever_the_batches(
    sizes: list[int], shard_size: int, done: frozenset[int]
) -> None:
    values = list(range(sum(sizes)))
    starts = [0, *accumulate(sizes)]
    batches = [
        (start, pa.RecordBatch.from_pydict({"url": pa.array(values[start : start + size], pa.int64())}))
        for start, size in zip(starts, sizes, strict=False)
    ]
    shards = {index: table["url"].to_pylist() for index, table in iter_shards(batches, shard_size, done)}
    cut = [values[start : start + shard_size] for start in range(0, len(values), shard_size)]
    assert shards == {index: rows for index, rows in enumerate(cut) if index not in done}


def test_row_groups_of_finished_shards_are_not_read(tmp_path: Path) -> None:
    for name, rows in (("a.parquet", range(100)), ("b.parquet", range(100, 130))):
        pq.write_table(pa.table({"url": [str(row) for row in rows]}), tmp_path / name, row_group_size=8)
    opened = open_url_list(str(tmp_path), Columns(caption=None))
    done = {0, 1, 2, 4, 9, 12}
    read = [
        row for position, batch in opened.batches(done, 10) for row in range(position, position + len(batch))
    ]
    shards = {
        index: table["url"].to_pylist() for index, table in iter_shards(opened.batches(done, 10), 10, done)
    }
    assert shards == {
        shard: [str(row) for row in range(10 * shard, 10 * shard + 10)]
        for shard in range(13)
        if shard not in done
    }
    skipped = [*range(24), *range(40, 48), *range(96, 100), *range(124, 130)]
    assert sorted([*read, *skipped]) == list(range(130))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("none.parquet", None, "none.parquet: no such file"),
        ("bad.parquet", b"no parquet at all", "bad.parquet"),
        ("bad.csv", b"", "bad.csv"),
        ("list.xlsx", b"x", "expected a file named .parquet"),
        ("list.parquet.gz", b"x", "expected a file named .parquet"),
        ("links.csv", b"link,caption\nhttp://a/1.png,x\n", "expected a column 'url', got link, caption"),
        ("silent.csv", b"url,text\nhttp://a/1.png,x\n", "expected a column 'caption', got url, text"),
        ("twice.csv", b"url,caption,url\nu,x,v\n", "expected one column 'url', got 2"),
        ("empty.csv", b"url,caption\n", "is empty"),
        ("empty.txt", b"\n\n", "is empty"),
        ("empty.json", b"[]", "is empty"),
        ("object.json", b'{"url": "u"}', "expected an array of objects, got dict"),
        ("cut.json", b'[{"url": "u"}', "cut.json: broken JSON"),
        ("cut.csv.gz", gzip.compress(b"url,caption\n" + b"u,v\n" * 99, mtime=0)[:-9], "cut.csv.gz"),
        ("plain.csv.gz", b"url,caption\nu,x\n", "plain.csv.gz"),
    ],
)
def test_an_unusable_list_is_one_line_of_the_check_and_raises(
    tmp_path: Path, name: str, content: bytes | None, line: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    (problem,) = Acquire().check(AcquireConfig(url_list=str(path)))
    assert line in problem
    assert "\n" not in problem
    with pytest.raises(UrlListError):
        open_url_list(str(path), Columns())


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("wide.csv", b"url,n\nu,1\nv,2,3\n", ["wide.csv, row 3: expected 2 columns, got 3"]),
        ("type.csv", b"url,n\n" + b"u,1\n" * 9 + b"v,x\n", ["type.csv", "row 11", "'n'", "int64", "'x'"]),
        ("utf8.csv", b"url,n\nu,1\n\xff,2\n", ["utf8.csv", "row 3", "'url'", "UTF8"]),
        ("type.jsonl", b'{"url": "u", "n": 1}\n\n{"url": 5, "n": 1}', ["line 3", "'url'", "string", "got 5"]),
        ("cut.jsonl", b'{"url": "u", "n": 1}\n{"url": "v"', ["cut.jsonl, line 2", "broken JSON"]),
        ("array.jsonl", b'{"url": "u", "n": 1}\n["v", 2]', ["line 2", "expected an object", "list"]),
        ("type.json", b'[{"url": "u", "n": 1}, {"url": ["v"]}]', ["row 2", "'url'", "string", '["v"]']),
        ("nested.json", b'[{"url": "u", "n": [1]}]', ["nested.json", "'n'", "list<"]),
    ],
)
def test_a_malformed_row_is_named_with_file_row_and_column(
    tmp_path: Path, name: str, content: bytes, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The head must not see all of the list, or it guesses a type that holds everything.
    monkeypatch.setattr(list_formats, "BLOCK_BYTES", 24)
    monkeypatch.setattr(list_formats, "HEAD_BYTES", 24)
    path = tmp_path / name
    path.write_bytes(content)
    line = problem_of(path, Columns(caption=None, extra=("n",)))
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({"url": [1], "n": [1]}, ["'url'", "expected strings", "int64"]),
        ({"url": [b"u"], "n": [1]}, ["'url'", "expected strings", "binary"]),
        ({"url": ["u"], "n": [{"x": 1}]}, ["'n'", "struct", "columns.extra"]),
        ({"url": ["u"], "n": [b"x"]}, ["'n'", "binary", "columns.extra"]),
    ],
)
def test_a_column_of_the_wrong_type_is_refused(
    tmp_path: Path, table: dict[str, Any], parts: list[str]
) -> None:
    path = write(tmp_path / "list.parquet", pa.table(table))
    line = problem_of(path, Columns(caption=None, extra=("n",)))
    assert all(part in line for part in ["list.parquet", *parts]), line


def test_bytes_that_are_no_text_are_found_in_parquet(tmp_path: Path) -> None:
    urls = pa.array([b"u", None, b"\xff"]).view(pa.string())
    path = write(tmp_path / "list.parquet", pa.table({"url": urls}))
    line = problem_of(path, Columns(caption=None))
    assert "list.parquet, row 3, column 'url'" in line


def test_exactly_one_source_of_urls(tmp_path: Path) -> None:
    path = write(tmp_path / "list.parquet")
    assert "either" in Acquire().check(AcquireConfig())[0]
    assert "either" in Acquire().check(AcquireConfig(urls="x", url_list=str(path)))[0]
    columns = Columns(url="link", caption="text")
    assert Acquire().check(AcquireConfig(url_list=str(path), columns=columns)) == []


def test_another_list_is_another_address(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv")
    config = AcquireConfig(url_list=str(path))
    before = Acquire().identity(config)
    write(tmp_path / "more.csv")
    assert Acquire().identity(AcquireConfig(url_list=f"{tmp_path}/*.csv")) != before
    path.write_text("url,caption\nhttp://a/1.png,x\n")
    assert Acquire().identity(config) != before


def test_types_belong_to_extra_columns() -> None:
    with pytest.raises(ValueError, match="expected names among the extra columns"):
        Columns(types={"size": "string"})
