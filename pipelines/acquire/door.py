"""The door of a crawl: what block lists and the store's forget list keep out, before a request or a write."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from filters.block_lists import BlockLists, Kind
from infra.digests import digest_of, sha256_of_file
from infra.forget import ForgetList
from pipelines.acquire.config import BlockListFiles
from pipelines.acquire.decode import ImageRefusedError, decode
from pipelines.acquire.states import State
from pipelines.forget.rows import url_digest

FORGOTTEN = "on the store's forget list"


class Door:
    """What may pass.  Loaded once per process, by `DoorSource.open`."""

    def __init__(self, lists: BlockLists, forgotten: ForgetList) -> None:
        self._lists, self._forgotten = lists, forgotten

    def refuses_url(self, url: str) -> str | None:
        """The message a URL is refused with, or None.  Asked before every request, redirects included."""
        if self._forgotten.urls and url_digest(url) in self._forgotten.urls:
            return FORGOTTEN
        return self._lists.refuses_url(url)

    def admit_bytes(self, body: bytes) -> None:
        """Raise `ImageRefusedError` where a list has the body, as fetched, by its hash."""
        if self._forgotten.images and hashlib.sha256(body).hexdigest() in self._forgotten.images:
            raise ImageRefusedError(State.REFUSED_BY_POLICY, FORGOTTEN)
        _refuse(self._lists.refuses_bytes(body))

    def admit_picture(self, body: bytes) -> None:
        """Raise `ImageRefusedError` where a list has a picture like it.  Expects a body whose header was
        checked; it is decoded only where there is such a list."""
        if not self._lists.compare_pictures:
            return
        from filters.duplicates import perceptual_hash

        image = decode(body)
        rgb = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image[..., ::-1]
        _refuse(self._lists.refuses_phash(perceptual_hash(np.ascontiguousarray(rgb))))


@dataclass(frozen=True, kw_only=True)
class DoorSource:
    """What a worker needs to open the door: files, store, and a digest of what both hold."""

    files: BlockListFiles
    store: Path
    digest: str

    @staticmethod
    def of(files: BlockListFiles, store: Path) -> DoorSource:
        forgotten = ForgetList.open(store)
        return DoorSource(
            files=files,
            store=store.absolute(),
            digest=digest_of([list_digests(files), forgotten.digest]),
        )

    def open(self) -> Door:
        """The door, loaded once per process and content.  Raises `BlockListError`."""
        return _open(self)


def paths_of(files: BlockListFiles) -> dict[Kind, list[Path]]:
    """The files of each kind."""
    named: dict[Kind, tuple[str, ...]] = {
        "urls": files.urls,
        "domains": files.domains,
        "md5": files.md5,
        "sha256": files.sha256,
        "phash": files.phash.files,
    }
    return {kind: [Path(name) for name in names] for kind, names in named.items() if names}


def list_digests(files: BlockListFiles) -> dict[str, list[str]]:
    """sha256 of every file by kind: the same file name may hold another list tomorrow."""
    return {kind: [sha256_of_file(path) for path in paths] for kind, paths in paths_of(files).items()}


def load_lists(files: BlockListFiles) -> BlockLists:
    """Read all lists; raises `BlockListError` naming file and line."""
    return BlockLists.load(paths_of(files), phash_radius=files.phash.radius)


def absolute(files: BlockListFiles) -> BlockListFiles:
    """The same files by absolute path: a worker's current folder may be another."""

    def resolve(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Path(name).absolute()) for name in names)

    update: dict[str, Any] = {
        kind: resolve(getattr(files, kind)) for kind in ("urls", "domains", "md5", "sha256")
    }
    update["phash"] = files.phash.model_copy(update={"files": resolve(files.phash.files)})
    return files.model_copy(update=update)


def _refuse(message: str | None) -> None:
    if message is not None:
        raise ImageRefusedError(State.REFUSED_BY_POLICY, message)


# One door at a time: a list of 10 M entries takes 160 to 320 MB.
@lru_cache(maxsize=1)
def _open(source: DoorSource) -> Door:
    return Door(load_lists(source.files), ForgetList.open(source.store))
