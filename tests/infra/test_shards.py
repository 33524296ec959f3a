"""Shards are what WebDataset's own writer and reader take them for, byte for byte."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from infra.shards import Sample, read_tar, sample_key, shard_name, write_tar

SAMPLES = [
    Sample(
        key=sample_key(3, row, 1000),
        image=bytes([row]) * (row * 700 + 1),
        extension=extension,
        caption=caption,
        metadata={"key": sample_key(3, row, 1000), "width": row},
    )
    for row, (extension, caption) in enumerate([("jpg", "a red heart"), ("png", "ein Käfer"), ("webp", "")])
]


def test_equals_webdatasets_writer(tmp_path: Path) -> None:
    import webdataset as wds

    stream = io.BytesIO()
    writer = wds.TarWriter(stream, encoder=False, mtime=0)
    for sample in SAMPLES:
        members = {"__key__": sample.key, sample.extension: sample.image, "txt": sample.caption.encode()}
        writer.write(members | {"json": json.dumps(sample.metadata, indent=4).encode()})
    writer.close()
    write_tar(tmp_path / "00003.tar", SAMPLES)
    assert (tmp_path / "00003.tar").read_bytes() == stream.getvalue()


def test_webdataset_reads_them(tmp_path: Path) -> None:
    import webdataset as wds

    write_tar(tmp_path / "00003.tar", SAMPLES)
    rows = list(wds.WebDataset(str(tmp_path / "00003.tar"), shardshuffle=False))
    assert [row["__key__"] for row in rows] == [sample.key for sample in SAMPLES]
    assert [row["txt"].decode() for row in rows] == [sample.caption for sample in SAMPLES]
    assert rows[1]["png"] == SAMPLES[1].image


def test_round_trip(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", SAMPLES)
    assert list(read_tar(tmp_path / "a.tar")) == SAMPLES


def test_names_follow_the_shard_size() -> None:
    assert shard_name(7) == "00007"
    assert sample_key(7, 3, 10_000) == "000070003"
    assert sample_key(7, 3, 250) == "00007003"


def test_a_sample_without_image_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("000001.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(ValueError, match="sample 000001: expected an image member"):
        list(read_tar(tmp_path / "a.tar"))
