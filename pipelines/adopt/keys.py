"""Keys are unique in a corpus: what joins annotations, verdicts and samples."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq


def shared_key(folder: Path, names: Iterable[str]) -> tuple[str, str, str] | None:
    """A key that two shards of a corpus share, with their names; None where there is none.

    Only shards whose ranges of keys overlap are compared, which img2dataset's never do; memory grows with
    the rows of those that do.
    """
    spans = [(keys[0], keys[-1], name) for name in names if (keys := _keys(folder, name))]
    seen: dict[str, str] = {}
    group, reach = list[str](), ""
    for first, last, name in sorted(spans):
        if first > reach:
            group, seen = [], {}
        for other in group if not seen else group[-1:]:
            seen |= dict.fromkeys(_keys(folder, other), other)
        if seen:
            for key in _keys(folder, name):
                if key in seen:
                    return key, seen[key], name
        group.append(name)
        reach = max(reach, last)
    return None


def _keys(folder: Path, name: str) -> list[str]:
    """The shard's keys, sorted."""
    keys: list[str] = pq.read_table(folder / f"{name}.parquet", columns=["key"])["key"].to_pylist()
    return keys
