"""Block lists: URLs, domains, file hashes and perceptual hashes of what must never be fetched or stored.

A list is a text file with one entry a line (blank lines and lines that begin with `#` are skipped) or a CSV
or TSV file with a column named after its kind (`url`, `domain`, `md5`, `sha256`, `phash`); either may be
gzipped.  Loaded, an entry takes 16 bytes (sha256: 32, phash: 8), whatever its length in the file.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal
from urllib.parse import urlsplit, urlunsplit

import numpy as np

Kind = Literal["urls", "domains", "md5", "sha256", "phash"]
DEFAULT_PORT = {"http": 80, "https": 443}
TEXT_DIGEST_BYTES = 16
"""Of a URL's or a domain's sha256: among 10 M entries a chance match has probability 1e-31."""


class BlockListError(ValueError):
    """A block list that cannot be used; names the file, and the line where there is one."""


def normalise_url(url: str) -> str:
    """The URL as lists compare it: scheme and host in lower case (the host in its ASCII form, no dot at its
    end), no default port, no user info, no fragment, `/` for an empty path.  Path and query stay as they are.

    Raises ValueError where it is no http or https URL with a host.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in DEFAULT_PORT or not parts.hostname:
        raise ValueError("expected an http or https URL with a host")
    host = _ascii_host(parts.hostname)
    host = f"[{host}]" if ":" in host else host
    # `port` raises ValueError where it is no number.
    port = "" if parts.port in (None, DEFAULT_PORT[parts.scheme]) else f":{parts.port}"
    return urlunsplit((parts.scheme, host + port, parts.path or "/", parts.query, ""))


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockList:
    """One loaded list: its entries sorted, so that a look-up is a binary search."""

    name: str
    """Of the file: what a refusal calls the list."""
    kind: Kind
    entries: np.ndarray
    """Byte strings of one width; of perceptual hashes: uint64."""

    def __contains__(self, entry: bytes) -> bool:
        needle = np.frombuffer(entry, dtype=self.entries.dtype)
        at = int(np.searchsorted(self.entries, needle)[0])
        # As bytes: numpy's own comparison takes zero bytes at the end for padding.
        return self.entries[at : at + 1].tobytes() == entry

    def near(self, phash: np.uint64, radius: int) -> bool:
        """Whether an entry differs from `phash` in at most `radius` of 64 bits; reads all entries."""
        return bool((np.bitwise_count(self.entries ^ phash) <= radius).any())


class BlockLists:
    """All lists of a crawl.

    Each `refuses_*` returns None, or a message that names list and kind only: what stands on a list may
    itself be nothing to repeat.
    """

    def __init__(self, lists: Sequence[BlockList] = (), *, phash_radius: int = 4) -> None:
        """`phash_radius`: in how many bits, 0 to 64, a perceptual hash may differ from an entry."""
        self._lists = {kind: [one for one in lists if one.kind == kind] for kind in PARSERS}
        self._radius = phash_radius

    @staticmethod
    def load(files: Mapping[Kind, Sequence[Path]], *, phash_radius: int = 4) -> BlockLists:
        """Read every file; raises `BlockListError` where one is missing or an entry cannot be read."""
        lists = [load_list(path, kind) for kind, paths in files.items() for path in paths]
        return BlockLists(lists, phash_radius=phash_radius)

    @property
    def compare_pictures(self) -> bool:
        """Whether there is a list that perceptual hashes are compared with."""
        return bool(self._lists["phash"])

    def refuses_url(self, url: str) -> str | None:
        """The URL's exact form, then its host and every domain that the host lies in."""
        if not self._lists["urls"] and not self._lists["domains"]:
            return None
        try:
            normal = normalise_url(url)
        except ValueError:
            return None  # nothing that could be fetched
        labels = (urlsplit(normal).hostname or "").split(".")
        domains = [_text_digest(".".join(labels[start:])) for start in range(len(labels))]
        return self._refusal("urls", [_text_digest(normal)]) or self._refusal("domains", domains)

    def refuses_bytes(self, body: bytes) -> str | None:
        """MD5 and SHA-256 of a body as fetched."""
        refusal = None
        if self._lists["md5"]:
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            refusal = self._refusal("md5", [digest])
        if refusal is None and self._lists["sha256"]:
            refusal = self._refusal("sha256", [hashlib.sha256(body).digest()])
        return refusal

    def refuses_phash(self, phash: np.uint64) -> str | None:
        """A perceptual hash as `filters.duplicates.perceptual_hash` computes it."""
        near = (one for one in self._lists["phash"] if one.near(phash, self._radius))
        return next((_message(one) for one in near), None)

    def _refusal(self, kind: Kind, entries: Sequence[bytes]) -> str | None:
        found = (one for one in self._lists[kind] if any(entry in one for entry in entries))
        return next((_message(one) for one in found), None)


def load_list(path: Path, kind: Kind) -> BlockList:
    """Read one list; raises `BlockListError` naming file and line."""
    column, dtype, parse = PARSERS[kind]
    packed, line = bytearray(), 0
    try:
        for line, entry in _entries(path, column):  # noqa: B007 - the messages below name it
            packed += parse(entry)
    except BlockListError:
        raise
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise BlockListError(f"block list {path}: cannot be read after line {line}: {error}") from error
    except ValueError as error:
        raise BlockListError(f"block list {path}, line {line}: {error}; mend or remove the line") from None
    entries = np.frombuffer(packed, dtype=dtype) if packed else np.zeros(0, dtype)
    entries.sort()  # in place: a bytearray's view can be written to
    return BlockList(name=path.name, kind=kind, entries=entries)


def _entries(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and entries."""
    suffix = Path(path.name.removesuffix(".gz")).suffix
    with _open_text(path) as stream:
        if suffix not in (".csv", ".tsv"):
            lines = ((number, line.strip()) for number, line in enumerate(stream, start=1))
            yield from ((number, line) for number, line in lines if line and not line.startswith("#"))
            return
        reader = csv.DictReader(stream, delimiter="\t" if suffix == ".tsv" else ",")
        names = list(reader.fieldnames or ())
        if column not in names:
            raise BlockListError(
                f"block list {path}: expected a column {column!r}, got {', '.join(names) or 'none'}"
            )
        for row in reader:
            yield reader.line_num, (row[column] or "").strip()


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _url(entry: str) -> bytes:
    try:
        return _text_digest(normalise_url(entry))
    except ValueError as error:
        raise ValueError(f"{error}, got {_short(entry)}") from None


def _domain(entry: str) -> bytes:
    domain = _ascii_host(entry.removeprefix("*.").removeprefix("."))
    if not domain or any(character in domain for character in "/:@*? \t"):
        raise ValueError(f"expected a domain such as example.org, got {_short(entry)}")
    return _text_digest(domain)


def _hexadecimal(size: int) -> Callable[[str], bytes]:
    """A parser of `size` bytes in hexadecimal, upper or lower case."""

    def parse(entry: str) -> bytes:
        try:
            digest = bytes.fromhex(entry)
        except ValueError:
            digest = b""
        if len(digest) != size:
            raise ValueError(f"expected {2 * size} hexadecimal digits, got {_short(entry)}")
        return digest

    return parse


# What a CSV calls the column, how numpy holds an entry, and how one is read.
PARSERS: Mapping[Kind, tuple[str, str, Callable[[str], bytes]]] = {
    "urls": ("url", f"S{TEXT_DIGEST_BYTES}", _url),
    "domains": ("domain", f"S{TEXT_DIGEST_BYTES}", _domain),
    "md5": ("md5", "S16", _hexadecimal(16)),
    "sha256": ("sha256", "S32", _hexadecimal(32)),
    "phash": ("phash", ">u8", _hexadecimal(8)),
}


def _message(one: BlockList) -> str:
    return f"block list {one.name} ({one.kind})"


def _text_digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:TEXT_DIGEST_BYTES]


def _ascii_host(host: str) -> str:
    host = host.rstrip(".").lower()
    try:
        return host.encode("idna").decode()
    except UnicodeError:  # no name that could be looked up; compared as it is
        return host


def _short(entry: str) -> str:
    return repr(entry if len(entry) <= 40 else f"{entry[:40]}…")
