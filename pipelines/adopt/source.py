"""A folder of img2dataset or other WebDataset shards as it lies there: which shards, and what is missing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# What we name a shard's files after; a leading underscore is the store's own.
SHARD_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")


class AdoptError(ValueError):
    """A folder, or a shard of it, that cannot be taken in as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceShard:
    """The files of one shard.  `parquet` and `stats` are None where the folder has none."""

    name: str
    tar: Path
    parquet: Path | None
    stats: Path | None


def source_shards(folder: Path) -> list[SourceShard]:
    """The folder's shards by name; raises `AdoptError` with one line for each problem."""
    if problems := folder_problems(folder):
        raise AdoptError("; ".join(problems))
    return [_shard(tar) for tar in sorted(folder.glob("*.tar"))]


def folder_problems(folder: Path) -> list[str]:
    """What is wrong with the folder, seen from the names of its files alone."""
    if not folder.is_dir():
        return [f"folder {folder}: no such folder"]
    shards = [_shard(tar) for tar in sorted(folder.glob("*.tar"))]
    if not shards:
        return [
            f"folder {folder}: expected shards (00000.tar with 00000.parquet), found no .tar; "
            "img2dataset writes them with --output_format webdataset"
        ]
    problems = [
        f"{shard.tar}: expected a name of letters, digits, - and _; rename its files"
        for shard in shards
        if not SHARD_NAME.match(shard.name)
    ]
    tables = sorted(folder.glob("*.parquet"))
    if tables:
        problems += [
            f"{shard.tar}: has no {shard.name}.parquet beside it as the others have, so its download was not "
            "finished; finish it, or move the tar away"
            for shard in shards
            if shard.parquet is None
        ]
    names = {shard.name for shard in shards}
    problems += [
        f"{path}: has no {path.stem}.tar beside it; restore the tar, or move this file away"
        for path in tables
        if path.stem not in names
    ]
    return problems


def _shard(tar: Path) -> SourceShard:
    parquet, stats = tar.with_suffix(".parquet"), tar.with_name(f"{tar.stem}_stats.json")
    return SourceShard(
        name=tar.stem,
        tar=tar,
        parquet=parquet if parquet.is_file() else None,
        stats=stats if stats.is_file() else None,
    )
