"""Destroying forgotten rows in every artifact of a store.

What is left of a row is a tombstone in the artifacts that account for every input row: its key and status
`forgotten` in the corpus, its key and reason `forgotten` in verdicts.  Artifacts that have a row for each
fetched sample (annotation, embeddings, clusters) lose theirs, so that all stay aligned.  Pages and pictures
that may show the sample are removed, reports lose its caption and URL.  Weights are left.

The record of the request says which rows, so a purge that was killed is begun again and comes to the same
bytes: every part of it may be done twice.  Corpora come last, for they say what to look for elsewhere.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from infra.digests import sha256_of_file
from infra.forget import ForgetRecord, RowsByShard
from infra.progress import Progress
from infra.shards import write_parquet
from infra.store import SHARDS, WORK, Artifact, Draft, ShardRecord, amend
from pipelines.forget.rows import url_digest
from pipelines.forget.shards import REWRITE, rewrite_shard

# The input that an artifact has its rows from.
ROWS_FROM = {
    "annotation": "corpus",
    "clusters": "annotation",
    "embeddings": "annotation",
    "verdict": "corpus",
    "filtered": "corpus",
}
REPORTS = frozenset({"corpus", "verdict", "filtered"})
PICTURES = frozenset({"evaluation", "model"})
PLOT = "overview.png"
"""The one picture of an evaluation that shows figures alone."""
REMADE = frozenset(
    {"annotation", "clusters", "embeddings", "verdict", "filtered", "evaluation", "model", "urls"}
)
"""Unfinished, these are removed whole: they do not say what they were being made from."""
REDACTED = "[forgotten]"


@dataclass(frozen=True, kw_only=True)
class Texts:
    """How forgotten rows may be written about elsewhere."""

    urls: frozenset[str]
    captions: frozenset[str]

    @staticmethod
    def of(store: Path, record: ForgetRecord) -> Texts:
        """As the corpora still have them; what was purged before is not among them."""
        urls, captions = set[str](), set[str]()
        for corpus, shards in record.rows.items():
            for shard, keys in shards.items():
                for row in _read_keys(store / "corpus" / corpus / f"{shard}.parquet", set(keys)):
                    urls.update(filter(None, [row.get("url")]))
                    captions.update(filter(None, [row.get("caption")]))
        return Texts(urls=frozenset(urls), captions=frozenset(captions))

    def redact(self, value: Any) -> Any:
        """A JSON value without them: captions as whole strings, URLs also inside of one."""
        if isinstance(value, str):
            shown = value in self.captions or any(url in value for url in self.urls)
            return REDACTED if shown else value
        if isinstance(value, list):
            return [self.redact(entry) for entry in value]
        return (
            {name: self.redact(entry) for name, entry in value.items()} if isinstance(value, dict) else value
        )


def purge(store: Path, record: ForgetRecord, progress: Progress) -> list[dict[str, Any]]:
    """Destroy the record's rows; returns what changed: `artifact`, `rows` and `removed` files of each.

    Expects to be alone in the store.  Done again it changes nothing more, and returns the same but for
    unfinished artifacts, which are gone by then.
    """
    texts = Texts.of(store, record)
    folders = sorted(path for path in store.glob("[!_]*/*") if path.is_dir())
    folders.sort(key=lambda folder: folder.parent.name == "corpus")
    progress.start(len(folders), unit="artifacts")
    changes = []
    for folder in folders:
        finished = (folder / "manifest.json").is_file()
        change = _purge_artifact(folder, record, texts) if finished else _purge_unfinished(folder, record)
        if change:
            changes.append({"artifact": f"{folder.parent.name}/{folder.name}", **change})
        progress.advance()
    return changes


def _purge_artifact(folder: Path, record: ForgetRecord, texts: Texts) -> dict[str, Any] | None:
    artifact = Artifact.open(folder)
    if (folder / WORK).is_dir():  # a run that was killed just after the manifest left it
        shutil.rmtree(folder / WORK)
    for entry in artifact.manifest.get("purged", []):
        if entry["record"] == record.number:
            return {"rows": entry["rows"], "removed": entry["removed"]}
    rows = record.rows.get(_corpus_of(artifact, folder.parent.parent), {})
    draft = Draft(path=folder, kind=artifact.kind, address=artifact.address)
    count, removed = sum(len(keys) for keys in rows.values()), list[str]()
    if artifact.kind in REPORTS and rows:
        removed = _redact_reports(artifact, draft, texts)
    if artifact.kind in REWRITE:
        _rewrite(draft, rows)
    elif artifact.kind == "urls":
        count = _purge_site(artifact, draft, record, texts)
    elif artifact.kind in PICTURES:
        count = next((u["train"] + u["held_out"] for u in record.used if u["artifact"] == _name(folder)), 0)
        removed = _remove(artifact, _pictured) if count else []
    if not count:
        return None
    change = {"rows": count, "removed": removed}
    amend(artifact, {"record": record.number, **change})
    return change


def _purge_unfinished(folder: Path, record: ForgetRecord) -> dict[str, Any] | None:
    """Keep what a run may go on from: a corpus's shards without the rows, a training's checkpoints."""
    kind = folder.parent.name
    if kind == "corpus":
        rows = record.rows.get(folder.name, {})
        draft = Draft(path=folder, kind=kind, address="")
        _rewrite(draft, rows)
        _remove_uncommitted(draft)
        return {"rows": sum(len(keys) for keys in rows.values()), "removed": [WORK]} if rows else None
    if kind in REMADE:
        shutil.rmtree(folder)
        return {"rows": 0, "removed": ["(whole: it was unfinished)"]}
    for pattern in ("*.arrow", "*.tmp"):
        for path in (folder / WORK).rglob(pattern):
            if path.is_file():
                path.unlink()
    return None


def _corpus_of(artifact: Artifact, store: Path) -> str:
    """Folder of the corpus that the artifact's rows are of; empty where it has none."""
    while artifact.kind in ROWS_FROM:
        source = artifact.manifest["inputs"].get(ROWS_FROM[artifact.kind])
        if source is None:
            return ""
        folder = store / source["kind"] / source["address"][:20]
        if source["kind"] == "corpus":
            return folder.name
        artifact = Artifact.open(folder)
    return artifact.path.name if artifact.kind == "corpus" else ""


def _rewrite(draft: Draft, rows: RowsByShard) -> None:
    for shard, keys in sorted(rows.items()):
        files, account = rewrite_shard(draft, shard, set(keys))
        draft.commit_shard(shard, files, account)


def _redact_reports(artifact: Artifact, draft: Draft, texts: Texts) -> list[str]:
    """Rewrite the artifact's JSON reports; returns its pages, which are removed."""
    for name in artifact.manifest["files"]:
        if name.endswith(".json"):
            told = json.loads((artifact.path / name).read_bytes())
            if (redacted := texts.redact(told)) != told:
                draft.write_bytes(name, (json.dumps(redacted, indent=1) + "\n").encode())
    return _remove(artifact, lambda file: file.endswith(".html"))


def _remove(artifact: Artifact, chosen: Callable[[str], bool]) -> list[str]:
    """Unlink the chosen files; returns their names, those that an earlier attempt removed included."""
    names = [name for name in artifact.manifest["files"] if chosen(name)]
    for name in names:
        (artifact.path / name).unlink(missing_ok=True)
    return names


def _pictured(file: str) -> bool:
    return file.endswith((".png", ".html")) and file != PLOT


def _purge_site(artifact: Artifact, draft: Draft, record: ForgetRecord, texts: Texts) -> int:
    """Take the files out of a site's archives and empty the rows of its lists; returns the rows.

    In this order, because the lists say which files; a list that differs from the manifest was emptied by an
    attempt that was killed.
    """
    forgotten = {*record.urls, *(url_digest(url) for url in texts.urls)}
    lists = {name: digest for name, digest in artifact.manifest["files"].items() if name.endswith(".parquet")}
    urls = {url for name in lists for url in _listed_urls(draft.path / name) if url_digest(url) in forgotten}
    for shard in artifact.shards:
        _purge_archives(draft, shard, {urlsplit(url).path.removeprefix("/") for url in urls})
    emptied = [_empty_rows(draft, name, urls) for name in lists]
    changed = any(sha256_of_file(draft.path / name) != digest for name, digest in lists.items())
    return max(emptied, default=0) if changed else 0


def _listed_urls(path: Path) -> list[str]:
    table = pq.read_table(path)
    return [url for url in table["url"].to_pylist() if url] if "url" in table.column_names else []


def _empty_rows(draft: Draft, name: str, urls: Set[str]) -> int:
    """Null every column of a list's rows of `urls`; returns how many of its rows are empty now."""
    table = pq.read_table(draft.path / name)
    rows = table.to_pylist()
    found = [row for row in rows if row.get("url") in urls]
    for row in found:
        row.update(dict.fromkeys(row))
    if found:
        temporary = draft.temporary(name)
        write_parquet(temporary, pa.Table.from_pylist(rows, schema=table.schema))
        draft.commit_file(name, temporary)
    return sum(row.get("url") is None for row in rows)


def _purge_archives(draft: Draft, shard: ShardRecord, paths: Set[str]) -> None:
    """Rewrite a shard's zip archives without the members named; leaves alone what has none."""
    files = {}
    for name in shard.sha256:
        with zipfile.ZipFile(draft.path / name) as archive:
            if paths.isdisjoint(archive.namelist()):
                continue
            files[name] = draft.temporary(name)
            with zipfile.ZipFile(files[name], "w") as out:
                for info in archive.infolist():
                    if info.filename not in paths:
                        out.writestr(info, archive.read(info))
    if files:
        draft.commit_shard(shard.name, files, shard.rows)


def _remove_uncommitted(draft: Draft) -> None:
    """Files of an unfinished corpus that no record speaks of, and its scratch: they are fetched again."""
    known = {file for record in draft.committed().values() for file in record.sha256}
    for path in [p for p in draft.path.rglob("*") if p.is_file()]:
        name = path.relative_to(draft.path).as_posix()
        if name not in known and not name.startswith(f"{SHARDS}/"):
            path.unlink()


def _read_keys(path: Path, keys: Set[str]) -> list[dict[str, Any]]:
    return [row for row in pq.read_table(path).to_pylist() if row["key"] in keys]


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
