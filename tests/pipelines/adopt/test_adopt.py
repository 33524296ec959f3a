"""Adopting a folder as img2dataset leaves it: unsorted, dated, with columns of its own; and damaged ones."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.shards import read_tar
from infra.store import Artifact, Draft
from pipelines.adopt.keys import shared_key
from pipelines.adopt.shard import AdoptJob, adopt_shard
from pipelines.adopt.source import folder_problems, source_shards
from pipelines.adopt.states import state_of
from pipelines.adopt.step import Adopt, AdoptConfig, AdoptResources
from tests.small_crawl import run_step

ROWS = 6
FAILED = {
    1: ("failed_to_download", "HTTP Error 404: Not Found", "gone"),
    4: ("failed_to_resize", "image too small", "too_small"),
}


def image_bytes(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20 + number, 10), (number, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def row_of(shard: int, position: int, digest: str | None) -> dict[str, Any]:
    """A row as img2dataset writes it, with a licence column."""
    key = f"{shard:05d}{position:04d}"
    status, message, _ = FAILED.get(position, ("success", None, ""))
    sizes = dict.fromkeys(("width", "height", "original_width", "original_height"))
    if status == "success":
        sizes |= {"width": 20 + position, "height": 10, "original_width": 200, "original_height": 100}
    row = {"licence": "CC0", "caption": f"picture {position}", "url": f"http://example.org/{key}.jpg"}
    row |= {"key": key, "status": status, "error_message": message, **sizes}
    return row | ({"sha256": digest if status == "success" else None} if digest else {})


def write_shard(folder: Path, shard: int, *, digest: str | None = None, stats: int = ROWS) -> None:
    """A shard in the order in which downloads happened to end."""
    folder.mkdir(exist_ok=True)
    rows = [row_of(shard, position, digest) for position in range(ROWS)]
    random.Random(shard).shuffle(rows)
    schema = pa.schema(
        [
            (name, pa.int32() if "width" in name or "height" in name else pa.string())
            for name in row_of(0, 0, digest)
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{shard:05d}.parquet")
    kept = [row for row in rows if row["status"] == "success"]
    write_samples(folder / f"{shard:05d}.tar", kept)
    counts = {"count": stats, "successes": len(kept), "failed_to_download": 1, "failed_to_resize": 1}
    (folder / f"{shard:05d}_stats.json").write_text(json.dumps(counts))


def write_samples(path: Path, rows: Iterable[dict[str, Any]], image: str = "jpg") -> None:
    with tarfile.open(path, "w") as archive:
        for row in rows:
            members = {image: image_bytes(int(row["key"][-4:])), "txt": row["caption"].encode()}
            for extension, data in (members | {"json": json.dumps(row, indent=4).encode()}).items():
                info = tarfile.TarInfo(f"{row['key']}.{extension}")
                info.size, info.mtime = len(data), 1_700_000_000
                archive.addfile(info, io.BytesIO(data))


def adopt(root: Path, folder: Path) -> Artifact:
    resources = AdoptResources(shards_in_flight=2, cpus_per_shard=0.5)
    return run_step(root, Adopt(), AdoptConfig(folder=str(folder)), {}, resources=resources)


def adopt_one(folder: Path, name: str = "00000") -> str:
    """Adopt one shard in this process; what is wrong with it."""
    draft = Draft(path=folder / "draft", kind="corpus", address="")
    (source,) = [shard for shard in source_shards(folder) if shard.name == name]
    result = adopt_shard(AdoptJob(draft=draft, source=source))
    return result if isinstance(result, str) else ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adopt") / "theirs"
    write_shard(made, 0, stats=ROWS + 2)
    write_shard(made, 1)
    return made


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Artifact:
    return adopt(folder.parent / "root", folder)


def test_every_row_is_there_sorted_with_its_columns_and_a_state(corpus: Artifact) -> None:
    assert (corpus.rows.total, corpus.rows.kept) == (2 * ROWS, 2 * (ROWS - len(FAILED)))
    assert corpus.rows.reasons == {"gone": 2, "too_small": 2}
    for shard in (0, 1):
        rows = pq.read_table(corpus.path / f"{shard:05d}.parquet").to_pylist()
        assert [row["key"] for row in rows] == [f"{shard:05d}{position:04d}" for position in range(ROWS)]
        for position, row in enumerate(rows):
            expected = row_of(shard, position, None)
            state = FAILED[position][2] if position in FAILED else "success"
            digest = hashlib.sha256(image_bytes(position)).hexdigest() if state == "success" else None
            assert row == expected | {"status": state, "sha256": digest}


def test_samples_are_sorted_dated_0_and_else_as_they_were(corpus: Artifact) -> None:
    for shard in (0, 1):
        path = corpus.path / f"{shard:05d}.tar"
        rows = {r["key"]: r for r in pq.read_table(path.with_suffix(".parquet")).to_pylist()}
        samples = list(read_tar(path))
        assert [s.key for s in samples] == [key for key, row in rows.items() if row["status"] == "success"]
        for sample in samples:
            assert sample.metadata == rows[sample.key]
            assert (sample.image, sample.caption) == (
                image_bytes(int(sample.key[-4:])),
                rows[sample.key]["caption"],
            )
        with tarfile.open(path) as archive:
            assert {info.mtime for info in archive} == {0}


def test_the_manifest_says_whose_digests_these_are(corpus: Artifact) -> None:
    assert corpus.summary["sha256_of_stored_bytes"] == corpus.rows.kept
    assert "as stored" in corpus.summary["sha256"]
    assert corpus.summary["rows_never_written"] == 2  # that img2dataset counted and did not write


def test_a_digest_of_fetched_bytes_is_kept(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, digest="e" * 64)
    assert adopt_one(tmp_path) == ""
    table = pq.read_table(tmp_path / "draft" / "00000.parquet")
    assert set(table["sha256"].to_pylist()) == {"e" * 64, None}
    assert {sample.metadata["sha256"] for sample in read_tar(tmp_path / "draft" / "00000.tar")} == {"e" * 64}


def test_equal_folders_in_another_order_are_equal_corpora(tmp_path: Path, corpus: Artifact) -> None:
    for shard in (0, 1):
        write_shard(tmp_path / "theirs", shard)
        rows = pq.read_table(tmp_path / "theirs" / f"{shard:05d}.parquet").sort_by("url").to_pylist()
        write_samples(
            tmp_path / "theirs" / f"{shard:05d}.tar", [row for row in rows if row["status"] == "success"]
        )
        assert adopt_one(tmp_path / "theirs", f"{shard:05d}") == ""
        for name in (f"{shard:05d}.tar", f"{shard:05d}.parquet"):
            assert (tmp_path / "theirs" / "draft" / name).read_bytes() == (corpus.path / name).read_bytes()


def test_rows_are_made_of_the_samples_where_there_is_no_parquet(tmp_path: Path) -> None:
    rows = [
        {"key": "b0001", "caption": "second", "score": 0.5, "license": "CC0"},
        {"key": "a0002", "caption": "first", "tags": ["x"]},
    ]
    write_samples(tmp_path / "part-0.tar", rows, image="jpeg")
    assert adopt_one(tmp_path, "part-0") == ""
    first, second = pq.read_table(tmp_path / "draft" / "part-0.parquet").to_pylist()
    assert (first["key"], first["tags"], first["license"]) == ("a0002", '["x"]', None)
    assert (second["caption"], second["score"], second["license"]) == ("second", "0.5", "CC0")
    assert (first["status"], first["width"], first["height"]) == ("success", 22, 10)
    assert first["sha256"] == hashlib.sha256(image_bytes(2)).hexdigest()
    assert [sample.extension for sample in read_tar(tmp_path / "draft" / "part-0.tar")] == ["jpg", "jpg"]


def cut(folder: Path) -> str:
    path = folder / "00000.tar"
    path.write_bytes(path.read_bytes()[:5000])
    return "00000.tar: damaged: cut short.* download the shard anew"


def cut_and_closed(folder: Path) -> str:
    path = folder / "00000.tar"
    path.write_bytes(path.read_bytes()[:2048] + bytes(1024))
    return "00000.tar: [0-9] images are missing that 00000.parquet lists as fetched, first 00000"


def no_parquet_at_all(folder: Path) -> str:
    (folder / "00000.parquet").write_bytes(b"PAR1 no more")
    return "00000.parquet: cannot be read: .* download the shard anew"


def a_row_too_few(folder: Path) -> str:
    table = pq.read_table(folder / "00000.parquet").sort_by("key")
    pq.write_table(table.slice(1), folder / "00000.parquet")
    return "00000.parquet: 1 images of 00000.tar have no row here that says success, first 000000000"


def a_row_twice(folder: Path) -> str:
    table = pq.read_table(folder / "00000.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), folder / "00000.parquet")
    return "00000.parquet: key 00000000[0-9] is there twice"


def an_unknown_status(folder: Path) -> str:
    table = pq.read_table(folder / "00000.parquet")
    table = table.set_column(
        table.column_names.index("status"), "status", pa.array(["fine"] * table.num_rows)
    )
    pq.write_table(table, folder / "00000.parquet")
    return "00000.parquet: row 0: expected a status of img2dataset's, got 'fine'"


def statistics_of_another_shard(folder: Path) -> str:
    (folder / "00000_stats.json").write_text('{"count": 6, "successes": 5}')
    return "00000_stats.json: counts 5 successes of 6 rows, but the shard has 4 of 6"


def broken_json(folder: Path) -> str:
    path = folder / "00000.tar"
    path.write_bytes(path.read_bytes().replace(b'{\n    "licence"', b'(\n    "licence"', 1))
    return r"00000.tar: member 00000000[0-9].json: is no JSON"


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        cut_and_closed,
        no_parquet_at_all,
        a_row_too_few,
        a_row_twice,
        an_unknown_status,
        statistics_of_another_shard,
        broken_json,
    ],
)
def test_damage_is_one_clear_line_and_nothing_of_the_shard_is_taken(tmp_path: Path, damage: Any) -> None:
    import re

    write_shard(tmp_path, 0)
    expected = damage(tmp_path)
    line = adopt_one(tmp_path)
    assert re.search(expected, line) and "\n" not in line
    assert not list((tmp_path / "draft").glob("0*")) and not list((tmp_path / "draft").glob("_shards/*"))


def test_the_other_shards_are_taken_and_all_damaged_ones_are_told(tmp_path: Path) -> None:
    from pipelines.adopt.source import AdoptError

    for shard in range(3):
        write_shard(tmp_path / "theirs", shard)
    cut(tmp_path / "theirs")
    (tmp_path / "theirs" / "00002.parquet").write_bytes(b"")
    with pytest.raises(
        AdoptError, match=r"2 of 3 shards .*00000.tar: damaged.*00002.parquet: cannot be read"
    ):
        adopt(tmp_path / "root", tmp_path / "theirs")
    (draft,) = (tmp_path / "root" / "store" / "corpus").iterdir()
    assert [path.name for path in (draft / "_shards").iterdir()] == ["00001.json"]
    assert not (draft / "manifest.json").exists()


def test_a_folder_that_lacks_files_is_refused_before_anything(tmp_path: Path) -> None:
    (empty,) = folder_problems(tmp_path)
    assert "found no .tar" in empty
    assert "no such folder" in folder_problems(tmp_path / "gone")[0]
    write_shard(tmp_path, 0)
    write_shard(tmp_path, 1)
    assert folder_problems(tmp_path) == []
    (tmp_path / "00000.parquet").unlink()
    (tmp_path / "00001.tar").rename(tmp_path / "_1.tar")
    problems = folder_problems(tmp_path)
    assert len(problems) == 4  # two tars without Parquet, a name, a Parquet without its tar
    assert all("\n" not in problem and str(tmp_path) in problem for problem in problems)


def test_keys_of_two_shards_may_interleave_but_not_meet(tmp_path: Path) -> None:
    shards = {"a": ["k1", "k5"], "b": ["k2", "k6"], "c": ["k3", "k4"], "d": ["k7"], "e": []}
    for name, keys in shards.items():
        pq.write_table(pa.table({"key": pa.array(keys, pa.string())}), tmp_path / f"{name}.parquet")
    assert shared_key(tmp_path, shards) is None
    pq.write_table(pa.table({"key": ["k3", "k5"]}), tmp_path / "c.parquet")
    assert shared_key(tmp_path, shards) == ("k5", "a", "c")


@pytest.mark.parametrize(
    "status, message, state",
    [
        ("success", None, "success"),
        ("failed_to_download", "<urlopen error timed out>", "timeout"),
        ("failed_to_download", "HTTP Error 503: Service Unavailable", "transient"),
        ("failed_to_download", "Use of image disallowed by X-Robots-Tag directive", "refused_by_site"),
        ("failed_to_download", "hash mismatch", "hash_mismatch"),
        ("failed_to_resize", "Image decoding error", "decode_error"),
        ("failed_to_resize", "aspect ratio too large", "bad_aspect"),
        ("timeout", "idle for 1 s", "timeout"),
    ],
)
def test_statuses_become_states(status: str, message: str | None, state: str) -> None:
    assert state_of(status, message) == state


def test_an_unknown_status_is_no_state() -> None:
    assert state_of("fine", None) is None


def test_captions_that_are_missing_or_no_utf8_are_counted_and_kept(tmp_path: Path) -> None:
    rows = [
        {"key": "a", "caption": ""},
        {"key": "b", "caption": "placeholder"},
        {"key": "c", "caption": "fine"},
    ]
    write_samples(tmp_path / "part-0.tar", [r | {"key": f"000{n}"} for n, r in enumerate(rows)])
    path = tmp_path / "part-0.tar"
    path.write_bytes(path.read_bytes().replace(b"placeholder\0", b"caf\xe9 hot se\0"))
    assert adopt_one(tmp_path, "part-0") == ""
    facts = json.loads((tmp_path / "draft/_work/adopted/part-0.json").read_bytes())
    assert (facts["captions_missing"], facts["captions_not_utf8"]) == (1, 1)
    captions = pq.read_table(tmp_path / "draft" / "part-0.parquet")["caption"].to_pylist()
    assert captions[2] == "fine"
    with tarfile.open(tmp_path / "draft" / "part-0.tar") as archive:
        assert archive.extractfile("0001.txt").read() == b"caf\xe9 hot se"  # type: ignore[union-attr]


def test_a_caption_in_utf16_is_counted_as_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "part-0.tar"
    write_samples(path, [{"key": "0000", "caption": "placeholder"}])
    path.write_bytes(path.read_bytes().replace(b"placeholder\0", b"r\0e\0d\0h\0o\0t\0"))
    assert adopt_one(tmp_path, "part-0") == ""
    facts = json.loads((tmp_path / "draft/_work/adopted/part-0.json").read_bytes())
    assert facts["captions_not_utf8"] == 1


def test_what_leaves_unjudged_is_counted(tmp_path: Path) -> None:
    """Another caption in JSON or Parquet than in the `.txt`, and members that nothing looks at."""
    rows = [{"key": f"000{n}", "caption": f"picture {n}"} for n in range(4)]
    write_samples(tmp_path / "part-0.tar", rows)
    with tarfile.open(tmp_path / "part-0.tar", "a") as archive:
        for name in ("0001.mp4", "0001.seg.png", "0002.gif"):
            archive.addfile(tarfile.TarInfo(name))
    schema = {"key": [r["key"] for r in rows], "status": ["success"] * 4}
    captions = [r["caption"] for r in rows[:3]] + ["another caption"]
    pq.write_table(pa.table(schema | {"caption": captions}), tmp_path / "part-0.parquet")
    path = tmp_path / "part-0.tar"
    path.write_bytes(path.read_bytes().replace(b'"picture 0"', b'"picture X"'))
    assert adopt_one(tmp_path, "part-0") == ""
    facts = json.loads((tmp_path / "draft/_work/adopted/part-0.json").read_bytes())
    assert (facts["captions_differ"], facts["other_members"]) == (2, 3)


def test_a_member_whose_name_is_no_utf8_is_one_line(tmp_path: Path) -> None:
    write_samples(tmp_path / "part-0.tar", [{"key": "abcd0001", "caption": "x"}])
    with tarfile.open(tmp_path / "part-0.tar") as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    with tarfile.open(tmp_path / "part-0.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for info, data in members:
            info.name = info.name.replace("abcd", "ab\udce9d")
            archive.addfile(info, io.BytesIO(data))
    assert "expected a key of printable characters" in adopt_one(tmp_path, "part-0")
