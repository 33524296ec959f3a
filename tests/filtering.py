"""A folder of img2dataset shards as somebody may have it, for `unclip filter`, and a policy for it.

Row 2 has a caption that the policy drops, row 3 none at all, row 4 one that is no UTF-8, row 5 failed to
download, row 8 is row 0 again; shard 2 has no sample.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.annotated import planted_caption
from tests.tiny import emoji_images

SHARD_SIZE, SHARDS = 6, 3
PLANTED, SILENT, LATIN, FAILED, COPY = 2, 3, 4, 5, 8
LATIN_BYTES = "caf\u00e9".encode("latin-1")
QUICK = ("--set", "steps.deduplicate.semantic=null", "--set", "steps.deduplicate.same_caption=null")
QUICK += ("--set", "resources.annotate.actors=1", "--set", "steps.annotate.chunk=2")
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("licence", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


def key(row: int) -> str:
    return f"{row // SHARD_SIZE:05d}{row % SHARD_SIZE:04d}"


def write_folder(folder: Path) -> Path:
    """The shards; returns the folder."""
    folder.mkdir(parents=True)
    pairs = emoji_images((SHARDS - 1) * SHARD_SIZE)
    pairs[COPY] = (pairs[0][0], pairs[COPY][1])
    pairs[PLANTED] = (pairs[PLANTED][0], planted_caption()["caption"])
    rows = [_row(number, image, caption) for number, (image, caption) in enumerate(pairs)]
    for shard in range(SHARDS):
        part = range(shard * SHARD_SIZE, min((shard + 1) * SHARD_SIZE, len(rows)))
        table = pa.Table.from_pylist([rows[number] for number in part], schema=SCHEMA)
        pq.write_table(table, folder / f"{shard:05d}.parquet")
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for number in part:
                if number != FAILED:
                    _add(archive, number, rows[number], pairs[number][0])
    return folder


def _row(number: int, image: bytes, caption: str) -> dict[str, Any]:
    row = {"key": key(number), "url": f"http://example.org/{number}.jpg", "licence": "CC0"}
    row |= {"caption": {SILENT: None, LATIN: "caf\ufffd"}.get(number, caption)}
    if number == FAILED:
        return row | {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}
    digest = hashlib.sha256(image).hexdigest()
    return row | {"status": "success", "sha256": digest, "width": 128, "height": 128}


def _add(archive: tarfile.TarFile, number: int, row: dict[str, Any], image: bytes) -> None:
    members = {"jpg": image, "json": json.dumps(row).encode(), "txt": (row["caption"] or "").encode()}
    if number == SILENT:
        del members["txt"]
    if number == LATIN:
        members["txt"] = LATIN_BYTES
    for extension, data in members.items():
        info = tarfile.TarInfo(f"{row['key']}.{extension}")
        info.size, info.mtime = len(data), 1_700_000_000
        archive.addfile(info, io.BytesIO(data))


def write_policy(path: Path, score: str = "lexicon_violent", version: int = 1, bound: float = 0.8) -> Path:
    """Drops samples without a caption, and those above the bound of a score."""
    rules = [
        {
            "name": "empty",
            "category": "caption",
            "action": "drop",
            "when": {"score": "caption_length", "below": 1},
        },
        {
            "name": "violent",
            "category": "violent",
            "action": "drop",
            "when": {"score": score, "above": bound},
        },
    ]
    policy = {"schema_version": 1, "name": "captions", "version": version, "owner": "test", "rules": rules}
    path.write_text(yaml.safe_dump(policy))
    return path


def members_of(tar: Path) -> dict[str, bytes]:
    """Every member of a tar by name."""
    with tarfile.open(tar) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file that `unclip filter` laid into a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".unclip" not in path.relative_to(folder).parts
    }
