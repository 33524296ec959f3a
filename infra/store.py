"""The artifact store: immutable directories, found again by the digest of what made them.

Layout under a root::

    store/<kind>/<address>/           one artifact
        manifest.json                 written last: without it the artifact does not exist
        host.json                     times and host facts; enters no digest
        _shards/<name>.json           one record per committed shard; the unit of commit
        _work/                        scratch and checkpoints; enters no digest, removed at the end
        ...                           the data

Crash safety rests on one order of events: data goes to a temporary name, is synced and renamed, and only
then is its record written (itself by rename).  A record on disk therefore always speaks the truth.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from infra.digests import digest_of, sha256_of_file

MANIFEST_SCHEMA = 1
SHARDS = "_shards"
WORK = "_work"
NO_HARD_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK)


class StoreError(RuntimeError):
    """An artifact that cannot be what it says it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Where input rows ended: `total` = kept + dropped + failed, with a count per reason for the last two."""

    total: int
    kept: int
    dropped: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise `StoreError` where a row is unaccounted for or has no reason (guarantee 3)."""
        if self.total != self.kept + self.dropped + self.failed:
            raise StoreError(
                f"rows lost: {self.total} came in, but kept {self.kept} + dropped {self.dropped} "
                f"+ failed {self.failed} = {self.kept + self.dropped + self.failed}"
            )
        if sum(self.reasons.values()) != self.dropped + self.failed:
            raise StoreError(
                f"reasons account for {sum(self.reasons.values())} rows, "
                f"but {self.dropped + self.failed} were dropped or failed: {self.reasons}"
            )

    def __add__(self, other: Rows) -> Rows:
        reasons = dict(self.reasons)
        for reason, count in other.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
        return Rows(
            total=self.total + other.total,
            kept=self.kept + other.kept,
            dropped=self.dropped + other.dropped,
            failed=self.failed + other.failed,
            reasons=dict(sorted(reasons.items())),
        )


NO_ROWS = Rows(total=0, kept=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """One committed shard: its row account and the sha256 and size in bytes of each of its files."""

    name: str
    rows: Rows
    sha256: dict[str, str]
    size_bytes: dict[str, int]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ShardRecord:
        return ShardRecord(
            name=data["name"],
            rows=Rows(**data["rows"]),
            sha256=dict(data["sha256"]),
            size_bytes=dict(data["size_bytes"]),
        )


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished artifact: a directory whose manifest exists."""

    path: Path
    manifest: dict[str, Any]

    @staticmethod
    def open(path: Path) -> Artifact:
        """Read the artifact at `path`; raises `StoreError` where there is no readable manifest."""
        manifest_path = path / "manifest.json"
        try:
            manifest = json.loads(manifest_path.read_bytes())
        except FileNotFoundError:
            raise StoreError(f"no artifact at {path}: manifest.json is missing (unfinished?)") from None
        except ValueError as error:
            raise StoreError(f"damaged manifest {manifest_path}: {error}") from None
        if manifest.get("schema") != MANIFEST_SCHEMA:
            raise StoreError(
                f"{manifest_path}: manifest schema {manifest.get('schema')!r}, expected {MANIFEST_SCHEMA}"
            )
        return Artifact(path=path, manifest=manifest)

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def address(self) -> str:
        return str(self.manifest["address"])

    @property
    def content(self) -> str:
        """Digest of the artifact's files and row account: equal content, equal digest, whatever made it."""
        return str(self.manifest["content"])

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.manifest["config"])

    @property
    def summary(self) -> dict[str, Any]:
        """The step's own figures (metrics, counts); deterministic, no times."""
        return dict(self.manifest["summary"])

    @property
    def rows(self) -> Rows:
        return Rows(**self.manifest["rows"])

    @property
    def shards(self) -> list[ShardRecord]:
        """Shard records sorted by name."""
        return [ShardRecord.from_json(record) for record in self.manifest["shards"]]

    @property
    def host(self) -> dict[str, Any]:
        """Times and host facts (`seconds`, `finished_at`, `hostname`)."""
        return dict(json.loads((self.path / "host.json").read_bytes()))


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An artifact being made.  Small and picklable: workers on other nodes commit shards through it."""

    path: Path
    kind: str
    address: str

    @property
    def work(self) -> Path:
        """Scratch that survives a crash and enters no digest (checkpoints, temporary files)."""
        path = self.path / WORK
        path.mkdir(parents=True, exist_ok=True)
        return path

    def temporary(self, name: str) -> Path:
        """A path on the same file system to write to before committing under `name`."""
        path = self.work / f"{name.replace('/', '_')}.{socket.gethostname()}.{os.getpid()}.tmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit_file(self, name: str, temporary: Path) -> None:
        """Sync `temporary` and rename it to `name` inside the artifact."""
        commit_file(temporary, self.path / name)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a small file atomically."""
        temporary = self.temporary(name)
        temporary.write_bytes(data)
        self.commit_file(name, temporary)

    def commit_shard(self, name: str, files: Mapping[str, Path], rows: Rows) -> ShardRecord:
        """Commit shard `name`: move each temporary file to its final relative name, then record it."""
        sha256 = {final: sha256_of_file(path) for final, path in sorted(files.items())}
        size_bytes = {final: path.stat().st_size for final, path in sorted(files.items())}
        for final, path in files.items():
            self.commit_file(final, path)
        record = ShardRecord(name=name, rows=rows, sha256=sha256, size_bytes=size_bytes)
        self._record(record)
        return record

    def link_shard(self, record: ShardRecord, source: Path) -> None:
        """Commit a shard of the finished artifact at `source` here as well, unchanged.

        Its files are hard-linked, which is safe as nobody writes into a committed file; where the file
        system has no hard links, they are copied.
        """
        for file in record.sha256:
            temporary = self.temporary(file)
            temporary.unlink(missing_ok=True)  # of a process of the same number that was killed
            link_or_copy(source / file, temporary)
            self.commit_file(file, temporary)
        self._record(record)

    def _record(self, record: ShardRecord) -> None:
        self.write_bytes(f"{SHARDS}/{record.name}.json", _json_bytes(asdict(record)))

    def committed(self) -> dict[str, ShardRecord]:
        """The shards that need no work.  A record whose files are gone or cut short is ignored."""
        records = {}
        for path in sorted((self.path / SHARDS).glob("*.json")):
            record = ShardRecord.from_json(json.loads(path.read_bytes()))
            if all(
                (self.path / file).is_file() and (self.path / file).stat().st_size == size
                for file, size in record.size_bytes.items()
            ):
                records[record.name] = record
        return records


class Store:
    """Finds and makes artifacts under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, kind: str, address: str) -> Path:
        return self.root / "store" / kind / address[:20]

    def find(self, kind: str, address: str) -> Artifact | None:
        """The finished artifact at this address, or None."""
        path = self.path_of(kind, address)
        if not (path / "manifest.json").is_file():
            return None
        artifact = Artifact.open(path)
        if artifact.address != address:
            raise StoreError(f"{path}: manifest says address {artifact.address}, expected {address}")
        return artifact

    def draft(self, kind: str, address: str) -> Draft:
        """Begin, or take up again, the artifact at this address."""
        path = self.path_of(kind, address)
        path.mkdir(parents=True, exist_ok=True)
        return Draft(path=path, kind=kind, address=address)

    def artifacts(self) -> Iterator[Artifact]:
        for manifest in sorted((self.root / "store").glob("*/*/manifest.json")):
            yield Artifact.open(manifest.parent)


def finish(
    draft: Draft,
    *,
    step: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    summary: Mapping[str, Any],
    seconds: float,
    rows: Rows | None = None,
) -> Artifact:
    """Write the manifest, last of all, and return the finished artifact.

    `step` holds `kind`, `version`, `config` and `identity`.  `rows` is the account of an artifact without
    shards; with shards the account is the sum of theirs.
    """
    held = _inventory(draft, rows)
    shards = {record["name"]: record["sha256"] for record in held["shards"]}
    content = digest_of({**held, "kind": draft.kind, "shards": shards})
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "kind": draft.kind,
        "address": draft.address,
        "content": content,
        "step": step["kind"],
        "version": step["version"],
        "config": step["config"],
        "identity": step.get("identity", {}),
        "inputs": {
            name: {"kind": a.kind, "address": a.address, "content": a.content} for name, a in inputs.items()
        },
        "git_commit": git_commit(),
        "summary": dict(summary),
        **held,
    }
    host = {"seconds": round(seconds, 3), "finished_at": time.time(), "hostname": socket.gethostname()}
    draft.write_bytes("host.json", _json_bytes(host))
    draft.write_bytes("manifest.json", _json_bytes(manifest))
    shutil.rmtree(draft.path / WORK, ignore_errors=True)
    return Artifact.open(draft.path)


def amend(artifact: Artifact, purged: Mapping[str, Any]) -> None:
    """Rewrite the manifest of an artifact some of whose bytes were destroyed, adding `purged` to its record.

    Files, shards and row account become those on disk.  Address and content stay: they name what was made,
    and whatever was made from it is found again by them.  Raises `StoreError` where a shard is damaged.
    """
    draft = Draft(path=artifact.path, kind=artifact.kind, address=artifact.address)
    held = _inventory(draft, None if artifact.shards else artifact.rows)
    if [record["name"] for record in held["shards"]] != [record.name for record in artifact.shards]:
        raise StoreError(f"{artifact.path}: a shard is missing or cut short; restore it, then run again")
    entries = [*artifact.manifest.get("purged", []), dict(purged)]
    draft.write_bytes("manifest.json", _json_bytes(artifact.manifest | held | {"purged": entries}))
    shutil.rmtree(draft.path / WORK)


def _inventory(draft: Draft, rows: Rows | None) -> dict[str, Any]:
    """What lies in the folder, as a manifest has it: rows (of the shards unless given), files, shards."""
    shards = [record for _, record in sorted(draft.committed().items())]
    total = NO_ROWS
    for record in shards:
        total = total + record.rows
    in_shards = {file for record in shards for file in record.sha256}
    files = {
        name: sha256_of_file(draft.path / name) for name in _data_files(draft.path) if name not in in_shards
    }
    return {
        "rows": asdict(rows or total),
        "files": files,
        "shards": [asdict(record) for record in shards],
    }


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that a reader, or a crash, never finds half of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    commit_file(temporary, path)


def commit_file(temporary: Path, final: Path) -> None:
    """Durable rename: sync the file, rename it, sync its folder."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link `source` to `target`, which must not exist; copy it where there are no hard links."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        shutil.copyfile(source, target)


@cache
def git_commit() -> str:
    """The commit of the running code, `+dirty` where it was changed, `unknown` outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _data_files(path: Path) -> list[str]:
    names = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return sorted(n for n in names if not n.startswith("_") and n not in ("manifest.json", "host.json"))


def _json_bytes(data: Any) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
