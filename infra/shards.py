"""WebDataset shards in img2dataset's layout, written so that equal content is equal bytes.

A shard `00000` is `00000.tar` (members `key.jpg|png|webp`, `key.txt`, `key.json`, sorted by key, dated 0)
and `00000.parquet`, one row for every input row, failed ones included, sorted by key.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

IMAGE_EXTENSIONS = ("jpg", "png", "webp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One image with one caption, as stored: encoded image bytes, caption, and img2dataset's JSON row."""

    key: str
    image: bytes
    extension: str
    caption: str
    metadata: dict[str, Any]


def shard_name(index: int) -> str:
    """`00000` for 0, as img2dataset numbers its shards."""
    return f"{index:05d}"


def sample_key(shard: int, row: int, shard_size: int) -> str:
    """img2dataset's key: shard id (5 digits), then the row's position in it, as wide as the shard size."""
    return f"{shard:05d}{row:0{len(str(shard_size - 1))}d}"


def write_tar(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples (in the order given: sort by key first) as a WebDataset tar with zeroed dates."""
    write_members(path, map(sample_members, samples))


def sample_members(sample: Sample) -> tuple[str, dict[str, bytes]]:
    """The sample's key, and its members by extension; dates and decimals, which JSON lacks, as text."""
    return sample.key, {
        sample.extension: sample.image,
        "json": json.dumps(sample.metadata, indent=4, default=str).encode(),
        "txt": sample.caption.encode(),
    }


def write_members(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """Write (key, members by extension) in the order given, as `write_tar` does.

    The members are those of `webdataset.TarWriter`, without its import of torch: 3 s of CPU in every worker.
    """
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for key, members in samples:
            for extension, data in sorted(members.items()):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mode, info.uname, info.gname = len(data), 0o444, "bigdata", "bigdata"
                archive.addfile(info, io.BytesIO(data))


def copy_tar_without(source: Path, target: Path, keys: Set[str]) -> None:
    """Copy a shard's tar, member by member as it is, leaving out every member of `keys`."""
    with tarfile.open(source) as archive, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as out:
        for info in archive:
            if info.name.partition(".")[0] not in keys:
                out.addfile(info, archive.extractfile(info))


def read_tar(source: Path | BinaryIO) -> Iterator[Sample]:
    """Yield samples of a shard in file order; a missing caption or JSON reads as empty."""
    for key, members in read_members(source):
        yield _sample(key, members)


def read_members(source: Path | BinaryIO) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, members by extension) of a shard in file order, every byte as stored."""
    archive = tarfile.open(source) if isinstance(source, Path) else tarfile.open(fileobj=source)  # noqa: SIM115
    with archive:
        members: dict[str, bytes] = {}
        current: str | None = None
        for info in archive:
            if not info.isfile():
                continue
            key, _, extension = info.name.partition(".")
            if current is not None and key != current:
                yield current, members
                members = {}
            current = key
            stream = archive.extractfile(info)
            assert stream is not None  # regular files always have one
            members[extension] = stream.read()
        if current is not None:
            yield current, members


def _sample(key: str, members: dict[str, bytes]) -> Sample:
    extension = next((e for e in IMAGE_EXTENSIONS if e in members), None)
    if extension is None:
        raise ValueError(
            f"sample {key}: expected an image member ({IMAGE_EXTENSIONS}), got {sorted(members)}"
        )
    return Sample(
        key=key,
        image=members[extension],
        extension=extension,
        caption=members.get("txt", b"").decode("utf-8", errors="replace"),
        metadata=json.loads(members["json"]) if "json" in members else {},
    )


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table the same way every time (fixed compression, no host metadata)."""
    pq.write_table(table, path, compression="zstd", write_statistics=True)
