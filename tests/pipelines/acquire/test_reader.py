"""URL lists: order kept, cut exactly, refused with one clear line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.acquire.config import AcquireConfig, Columns
from pipelines.acquire.reader import UrlListError, iter_shards, open_url_list
from pipelines.acquire.step import Acquire

TABLE = pa.table({"link": ["u0", "u1", "u2"], "text": ["a,\nb", None, "c"], "licence": [1, 2, 3]})


def write(path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(TABLE, path)
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        pyarrow.csv.write_csv(TABLE, path, pyarrow.csv.WriteOptions(delimiter=delimiter))
    return path


@pytest.mark.parametrize("name", ["list.parquet", "list.csv", "list.tsv"])
def test_columns_come_out_in_the_corpus_order(tmp_path: Path, name: str) -> None:
    columns = Columns(url="link", caption="text", extra=("licence",))
    rows, batches = open_url_list(write(tmp_path / name), columns)
    table = pa.Table.from_batches(batches)
    assert rows == 3
    assert table.column_names == ["licence", "caption", "url"]
    assert table["url"].to_pylist() == ["u0", "u1", "u2"]
    assert table["caption"].to_pylist()[0] == "a,\nb"
    assert table["licence"].to_pylist() == [1, 2, 3]


def test_a_plain_list_has_urls_only(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("http://a/1.png\n\nhttp://a/2.png\n")
    rows, batches = open_url_list(path, Columns())
    assert (rows, pa.Table.from_batches(batches).to_pydict()) == (
        2,
        {"url": ["http://a/1.png", "http://a/2.png"]},
    )


@given(
    sizes=st.lists(st.integers(min_value=0, max_value=25), max_size=12),
    shard_size=st.integers(min_value=1, max_value=12),
)
def test_shards_are_cut_exactly_whatever_the_batches(sizes: list[int], shard_size: int) -> None:
    values = list(range(sum(sizes)))
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    batches = [
        pa.RecordBatch.from_pydict({"url": pa.array(values[end - size : end], pa.int64())})
        for end, size in zip(ends, sizes, strict=True)
    ]
    shards = list(iter_shards(iter(batches), shard_size))
    assert [index for index, _ in shards] == list(range(len(shards)))
    assert [v for _, table in shards for v in table["url"].to_pylist()] == values
    assert all(table.num_rows == shard_size for _, table in shards[:-1])
    assert all(0 < table.num_rows <= shard_size for _, table in shards)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("none.parquet", None, "none.parquet"),
        ("bad.parquet", b"no parquet at all", "bad.parquet"),
        ("bad.csv", b"", "bad.csv"),
        ("list.xlsx", b"x", "expected a file named .parquet"),
        ("links.csv", b"link,caption\nhttp://a/1.png,x\n", "expected a column 'url', got link, caption"),
        ("silent.csv", b"url,text\nhttp://a/1.png,x\n", "expected a column 'caption', got url, text"),
        ("empty.csv", b"url,caption\n", "is empty"),
        ("empty.txt", b"\n\n", "is empty"),
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
        open_url_list(path, Columns())


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
    path.write_text("url,caption\nhttp://a/1.png,x\n")
    assert Acquire().identity(config) != before
