"""A foreign shard's tar, read by key whatever its order."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.shards import IMAGE_EXTENSIONS
from pipelines.adopt.source import AdoptError

END_MARK = bytes(512)
RENAMED = {"jpeg": "jpg"}


@dataclass(frozen=True, kw_only=True)
class TarSamples:
    """The samples of an open tar: `places` holds each key's members by extension."""

    path: Path
    archive: tarfile.TarFile
    places: dict[str, dict[str, tarfile.TarInfo]]

    def read(self, key: str) -> dict[str, bytes]:
        """The members of one sample by extension, as stored."""
        try:
            return {
                extension: self.archive.extractfile(info).read()  # type: ignore[union-attr]  # regular files
                for extension, info in self.places[key].items()
            }
        except tarfile.TarError as error:
            raise AdoptError(_damaged(self.path, str(error))) from error


@contextmanager
def open_samples(path: Path) -> Iterator[TarSamples]:
    """Index a tar; raises `AdoptError` naming it where it is damaged or holds anything but samples."""
    try:
        with path.open("rb") as stream:
            stream.seek(-min(len(END_MARK), path.stat().st_size), 2)
            if stream.read() != END_MARK:
                raise AdoptError(_damaged(path, "cut short: the mark that ends a tar is missing"))
        archive = tarfile.open(path, "r:")  # noqa: SIM115 (closed below)
        places = _index(path, archive)
    except (OSError, tarfile.TarError) as error:
        raise AdoptError(_damaged(path, str(error))) from error
    with archive:
        yield TarSamples(path=path, archive=archive, places=places)


def image_of(members: dict[str, bytes]) -> bytes:
    """The image among a sample's members."""
    return next(members[extension] for extension in IMAGE_EXTENSIONS if extension in members)


def _index(path: Path, archive: tarfile.TarFile) -> dict[str, dict[str, tarfile.TarInfo]]:
    places: dict[str, dict[str, tarfile.TarInfo]] = {}
    for info in archive:
        if not info.isfile():
            continue
        key, _, extension = info.name.removeprefix("./").partition(".")
        if not key or "/" in key:
            raise AdoptError(f"{path}: member {info.name!r}: expected KEY.EXTENSION, without a folder")
        if not key.isprintable():  # bytes of a name that are no UTF-8 read as lone surrogates
            raise AdoptError(f"{path}: member {info.name!r}: expected a key of printable characters")
        extension = RENAMED.get(extension, extension)
        if extension in places.setdefault(key, {}):
            raise AdoptError(f"{path}: member {info.name!r} is there twice; download the shard anew")
        places[key][extension] = info
    for key, members in places.items():
        if len(members.keys() & set(IMAGE_EXTENSIONS)) != 1:
            raise AdoptError(
                f"{path}: sample {key}: expected one image ({', '.join(IMAGE_EXTENSIONS)}), "
                f"got {', '.join(sorted(members))}"
            )
    return places


def _damaged(path: Path, why: str) -> str:
    return f"{path}: damaged: {why}; download the shard anew, or move {path.stem}.* away to adopt the others"
