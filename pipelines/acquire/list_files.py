"""The files behind `url_list`: found by name, glob or folder wherever fsspec reads, and digested."""

from __future__ import annotations

import glob
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from infra.digests import digest_of, sha256_of_file

TEXT_KINDS = (".csv", ".tsv", ".json", ".jsonl", ".txt")
KINDS = (".parquet", *TEXT_KINDS)
EXPECTED_NAMES = f"{', '.join(KINDS)}, or a text one with .gz behind"
# How many times its size the head of a gzipped file may become.
MAX_INFLATED = 16
# What stores call the digest or version they keep of a file's content.
REMOTE_DIGESTS = ("ETag", "etag", "md5Hash", "crc32c", "content_md5")


class UrlListError(ValueError):
    """A URL list that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class ListFile:
    """One file of a URL list: `name` as messages show it, `kind` one of `KINDS`."""

    fs: Any
    path: str
    name: str
    kind: str
    gzipped: bool

    @property
    def local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The content, decompressed."""
        with self.fs.open(self.path, "rb") as raw:
            if not self.gzipped:
                yield raw
                return
            with gzip.GzipFile(fileobj=raw) as stream:
                yield stream  # type: ignore[misc]

    def head(self, size: int) -> tuple[bytes, float]:
        """What the first `size` stored bytes hold, decompressed, and the share of the file they are."""
        with self.fs.open(self.path, "rb") as raw:
            data = stored = raw.read(size)
        used = len(stored)
        if self.gzipped:
            inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            data = inflater.decompress(stored, MAX_INFLATED * size)
            used -= len(inflater.unconsumed_tail) + len(inflater.unused_data)
        return data, used / max(self.fs.size(self.path), used) if used else 1.0

    def digest(self) -> str:
        """sha256 of a local file's bytes.

        A remote file is not read for it: what its store keeps as a digest or version (ETag, MD5, CRC32C;
        without any of them, fsspec's checksum of name, size and dates) stands for its content, with its size.
        """
        if self.local:
            facts = Path(self.path).stat()
            return _sha256(self.path, facts.st_size, facts.st_mtime_ns, facts.st_ino)
        info = self.fs.info(self.path)
        kept = {name: str(info[name]) for name in REMOTE_DIGESTS if info.get(name)}
        return digest_of({"size": info.get("size"), "kept": kept or str(self.fs.checksum(self.path))})


def find_files(url_list: str | Sequence[str]) -> tuple[ListFile, ...]:
    """The files of a list in reading order: entries as given, a folder's or glob's files sorted by path.

    Raises `UrlListError` where an entry leads nowhere, or to a file of another kind.
    """
    entries = [url_list] if isinstance(url_list, str) else url_list
    return tuple(file for entry in entries for file in _files_of(entry))


def _files_of(entry: str) -> list[ListFile]:
    try:
        fs, path = url_to_fs(entry)
        if fs.isfile(path):
            return [_list_file(fs, path, entry)]
        if fs.isdir(path):
            found = [info["name"] for info in fs.ls(path, detail=True) if info["type"] == "file"]
            # Writers leave _SUCCESS and hidden checksums beside their parts.
            found = [name for name in found if not name.rsplit("/", 1)[-1].startswith((".", "_"))]
        elif glob.has_magic(path):
            found = [name for name in fs.glob(path) if fs.isfile(name)]
        else:
            raise UrlListError(f"URL list {entry}: no such file or folder")
    except UrlListError:
        raise
    # Each of fsspec's file systems raises errors of its own kinds, for credentials and names above all.
    except Exception as error:
        lines = str(error).splitlines() or [""]
        raise UrlListError(f"URL list {entry}: {type(error).__name__}: {lines[0]}") from error
    if not found:
        raise UrlListError(f"URL list {entry}: no files there, expected some named {EXPECTED_NAMES}")
    return [_list_file(fs, name, _shown(fs, name)) for name in sorted(found)]


def _list_file(fs: Any, path: str, name: str) -> ListFile:
    lowered = path.lower()
    gzipped = lowered.endswith(".gz")
    kind = Path(lowered.removesuffix(".gz")).suffix
    if kind not in (TEXT_KINDS if gzipped else KINDS):
        raise UrlListError(f"URL list {name}: expected a file named {EXPECTED_NAMES}")
    return ListFile(fs=fs, path=path, name=name, kind=kind, gzipped=gzipped)


def _shown(fs: Any, path: str) -> str:
    return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int, inode: int) -> str:  # noqa: ARG001
    """A run asks for its list's digest several times; a file with the same facts is not read again."""
    return sha256_of_file(Path(path))
