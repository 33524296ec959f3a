"""The store's forget list: which URLs and images may reach nobody any more, and who said so.

Layout under a store::

    _forgotten/000001.json          one request: who, when, why, digests, and the rows it met; never changed
    _forgotten/000001.purged.json   what its purge destroyed; written last: without it the purge is unfinished

Records hold digests and keys alone, so that the list of what was removed does not publish it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.digests import digest_of
from infra.store import commit_file

FOLDER = "_forgotten"
RowsByShard = Mapping[str, Sequence[str]]
"""Keys by shard name."""


@dataclass(frozen=True)
class ForgetList:
    """What is forgotten: sha256 (hex) of normalised URLs, and of images as fetched."""

    urls: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()

    @staticmethod
    def open(store: Path) -> ForgetList:
        """The union of all records in `store`."""
        records = read_records(store)
        return ForgetList(
            urls=frozenset(url for record in records for url in record.urls),
            images=frozenset(image for record in records for image in record.images),
        )

    def __bool__(self) -> bool:
        return bool(self.urls or self.images)

    def covers(self, other: ForgetList) -> bool:
        """Whether all that `other` forgets is forgotten here too."""
        return other.urls <= self.urls and other.images <= self.images

    @cached_property
    def digest(self) -> str:
        """Equal for equal lists, in whatever order and number of requests they came."""
        return digest_of([sorted(self.urls), sorted(self.images)])


NOTHING = ForgetList()


@dataclass(frozen=True, kw_only=True)
class ForgetRecord:
    """One request, as it was met on the day it was made."""

    number: int
    when: str
    """ISO 8601, UTC."""
    who: str
    reason: str
    list_sha256: str
    """Of the file that was given."""
    purge: bool
    urls: list[str]
    images: list[str]
    rows: dict[str, dict[str, list[str]]]
    """Corpus folder -> shard -> keys of the rows found."""
    not_found: list[int]
    """Lines of the list that met no row."""
    used: list[dict[str, Any]] = field(default_factory=list)
    """What was trained on those rows or evaluated with them: `artifact`, `train`, `held_out` (rows)."""


def read_records(store: Path) -> list[ForgetRecord]:
    """Every request, in order."""
    paths = sorted((store / FOLDER).glob("[0-9]*[0-9].json"))
    return [ForgetRecord(**json.loads(path.read_bytes())) for path in paths]


def write_record(store: Path, record: ForgetRecord) -> None:
    """Append a request; raises `FileExistsError` where its number is taken."""
    path = store / FOLDER / f"{record.number:06d}.json"
    if path.exists():
        raise FileExistsError(f"{path}: forget records are never overwritten")
    _write(path, asdict(record))


def write_purged(store: Path, record: ForgetRecord, report: Mapping[str, Any]) -> None:
    """Close the audit of a purge: it is finished, and this is what it did."""
    _write(_purged_path(store, record), report)


def unfinished_purges(store: Path) -> list[ForgetRecord]:
    """Requests whose purge was begun and not finished."""
    return [r for r in read_records(store) if r.purge and not _purged_path(store, r).is_file()]


def _purged_path(store: Path, record: ForgetRecord) -> Path:
    return store / FOLDER / f"{record.number:06d}.purged.json"


def _write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    commit_file(temporary, path)
