"""The list that `unclip forget` is given: CSV with a header, or JSONL, a row for each thing to forget.

Columns: `url`, `sha256` (of the image as fetched), or `corpus` (the start of its address) and `key`; a row
needs one of the three, others are ignored.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = (".csv", ".jsonl")
SHA256 = re.compile(r"[0-9a-f]{64}")
ADDRESS = re.compile(r"[0-9a-f]{8,64}")


class RequestError(ValueError):
    """A list of things to forget that cannot be used; names file and line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One row of the list: what it names, in which line."""

    line: int
    url: str = ""
    sha256: str = ""
    corpus: str = ""
    key: str = ""


def read_request(path: Path) -> list[Wanted]:
    """Every row of the list; raises `RequestError` where it is unreadable, empty, or a row names nothing."""
    if path.suffix not in FORMATS:
        raise RequestError(
            f"{path}: expected a list in {' or '.join(FORMATS)}, got {path.suffix or 'no suffix'}"
        )
    try:
        rows = [_wanted(path, line, row) for line, row in _rows(path)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from error
    if not rows:
        raise RequestError(f"{path}: is empty; expected a row for each thing to forget")
    return rows


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8", newline="") as stream:
        if path.suffix == ".csv":
            reader = csv.DictReader(stream)
            for row in reader:
                yield reader.line_num, row
            return
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise RequestError(f"{path}, line {number}: no JSON: {error}") from None
            if not isinstance(value, dict):
                raise RequestError(f"{path}, line {number}: expected an object, got {line.strip()[:40]!r}")
            yield number, value


def _wanted(path: Path, line: int, row: dict[str, Any]) -> Wanted:
    where = f"{path}, line {line}"
    values = {}
    for name in ("url", "sha256", "corpus", "key"):
        value = row.get(name) or ""
        if not isinstance(value, str):
            raise RequestError(f"{where}: {name}: expected text, got {value!r}")
        values[name] = value.strip()
    wanted = Wanted(line=line, url=values["url"], sha256=values["sha256"].lower(), **_place(values))
    if wanted.sha256 and not SHA256.fullmatch(wanted.sha256):
        raise RequestError(f"{where}: sha256: expected 64 hexadecimal digits, got {values['sha256'][:70]!r}")
    if bool(wanted.corpus) != bool(wanted.key) or (wanted.corpus and not ADDRESS.fullmatch(wanted.corpus)):
        raise RequestError(
            f"{where}: expected corpus (8 or more digits of its address) and key together, "
            f"got corpus {wanted.corpus!r} and key {wanted.key!r}"
        )
    if not (wanted.url or wanted.sha256 or wanted.key):
        raise RequestError(f"{where}: names nothing; expected a url, a sha256, or a corpus and a key")
    return wanted


def _place(values: dict[str, str]) -> dict[str, str]:
    return {"corpus": values["corpus"].removeprefix("corpus/"), "key": values["key"]}
