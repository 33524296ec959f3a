"""From a list of things to forget to the rows of a store, and to what has learned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.forget import ForgetList, RowsByShard
from infra.store import Artifact, Draft, StoreError
from pipelines.forget.request import Wanted
from pipelines.forget.rows import matches, read_rows, url_digest

TRAINED = frozenset({"clip_heads", "prior", "decoder", "upsampler", "model"})
EVALUATED = "evaluation"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a request comes to in a store."""

    forgotten: ForgetList
    """What it asks to forget: its URLs and hashes, and the image that each URL or key it names led to."""
    rows: dict[str, dict[str, list[str]]]
    """Corpus folder -> shard -> keys; rows that were purged before are no longer among them."""
    missing: list[int]
    """Lines of the request that met no row."""

    @property
    def count(self) -> int:
        """Number of rows, over all corpora."""
        return sum(len(keys) for shards in self.rows.values() for keys in shards.values())


def find_rows(store: Path, wanted: Sequence[Wanted]) -> Found:
    """Find a request's rows in every corpus, unfinished ones included.

    An image is forgotten with its URL, wherever else the same bytes lie; so corpora are read twice: once for
    the images that the request's URLs and keys led to, once for all rows of those images.
    """
    asked = ForgetList(
        urls=frozenset(url_digest(one.url) for one in wanted if one.url),
        images=frozenset(one.sha256 for one in wanted if one.sha256),
    )
    places = [(one.corpus, one.key) for one in wanted if one.key]
    met: set[str | tuple[str, str]] = set()
    urls, images = set(asked.urls), set(asked.images)
    for corpus, _, table in _corpus_tables(store):
        here = [place for place in places if corpus.startswith(place[0][:20])]
        named = np.isin(np.array(table["key"].to_pylist(), dtype=str), [key for _, key in here])
        for row in table.filter(pa.array(matches(table, asked) | named)).to_pylist():
            url, image = row.get("url"), row.get("sha256")
            digest = url_digest(url) if url else None
            keyed = [place for place in here if place[1] == row["key"]]
            met |= {name for name in (digest, image, *keyed) if name is not None}
            if image and (keyed or digest in asked.urls):
                images.add(image)
            if digest and keyed:
                urls.add(digest)
    forgotten = ForgetList(urls=frozenset(urls), images=frozenset(images))
    rows: dict[str, dict[str, list[str]]] = {}
    for corpus, shard, table in _corpus_tables(store):
        keys = table["key"].filter(pa.array(matches(table, forgotten))).to_pylist()
        if keys:
            rows.setdefault(corpus, {})[shard] = keys
    return Found(forgotten=forgotten, rows=rows, missing=[one.line for one in wanted if not _met(one, met)])


def used_by(store: Path, rows: Mapping[str, RowsByShard]) -> list[dict[str, Any]]:
    """Networks and models that trained on these rows, evaluations that met them: `artifact`, `train` and
    `held_out` rows, by the verdicts they were made with, their own or those of what they were made of."""
    uses = _Uses(store, rows)
    found = []
    for kind in (*sorted(TRAINED), EVALUATED):
        for manifest in sorted((store / kind).glob("*/manifest.json")):
            splits = Counter(uses.of(Artifact.open(manifest.parent)).values())
            if splits:
                held_out = splits.total() - splits["train"]
                name = f"{kind}/{manifest.parent.name}"
                found.append({"artifact": name, "train": splits["train"], "held_out": held_out})
    return found


class _Uses:
    """The forgotten rows behind an artifact, with their splits; every artifact is looked at once."""

    def __init__(self, store: Path, rows: Mapping[str, RowsByShard]) -> None:
        self._store, self._rows = store, rows
        self._known: dict[Path, dict[tuple[str, str], str]] = {}

    def of(self, artifact: Artifact) -> dict[tuple[str, str], str]:
        """(corpus, key) -> split."""
        if artifact.path not in self._known:
            found = self._kept(artifact) if artifact.kind == "verdict" else {}
            # What a corpus or an annotation was made from has taught nobody anything.
            inputs = (
                {} if artifact.kind in ("corpus", "annotation", "verdict") else artifact.manifest["inputs"]
            )
            for source in inputs.values():
                folder = self._store / source["kind"] / source["address"][:20]
                if (folder / "manifest.json").is_file():
                    found = self.of(Artifact.open(folder)) | found
            self._known[artifact.path] = found
        return self._known[artifact.path]

    def _kept(self, verdict: Artifact) -> dict[tuple[str, str], str]:
        corpus = verdict.manifest["inputs"].get("corpus", {}).get("address", "")[:20]
        kept = {}
        for shard, keys in self._rows.get(corpus, {}).items():
            table = pq.read_table(verdict.path / f"{shard}.parquet", columns=["key", "keep", "split"])
            listed = set(keys)
            for row in table.filter(table["keep"]).to_pylist():
                if row["key"] in listed:
                    kept[corpus, row["key"]] = row["split"]
        return kept


def _met(one: Wanted, met: set[str | tuple[str, str]]) -> bool:
    names = [url_digest(one.url) if one.url else None, one.sha256 or None, (one.corpus, one.key)]
    return any(name in met for name in names if name is not None)


def _corpus_tables(store: Path) -> Iterator[tuple[str, str, pa.Table]]:
    """Folder, shard and rows of every committed shard of every corpus."""
    for folder in sorted((store / "corpus").glob("*")):
        shards = Draft(path=folder, kind="corpus", address="").committed()
        if (folder / "manifest.json").is_file() and len(shards) != len(Artifact.open(folder).shards):
            raise StoreError(f"{folder}: a shard is missing or cut short; restore it, then run again")
        for shard in shards:
            yield folder.name, shard, read_rows(folder, shard)
