"""A store with one of everything that may hold a sample, and a list of what to forget of it.

Run as a module it is `unclip` in a process that kills itself (-9) before its Nth rename:
`python -m tests.forgetting N forget --list ...`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.shards import read_tar, write_parquet
from infra.store import WORK, Artifact, Rows, Store, finish
from pipelines.aligned import ENCODER_FILE, embedding_file, metadata_file
from pipelines.annotate.chunks import decode_chunk, index_shard
from tests import annotated

# By URL: one whose row failed to download; by hash: row 0, of which row 10 is a copy; by place: the joker.
BY_URL, BY_HASH, BY_PLACE = (annotated.FAILED, 12, 14), 0, 15
FORGOTTEN = sorted({*BY_URL, BY_HASH, annotated.COPY, BY_PLACE})
BY_RULE = 12
"""Dropped by the policy besides, so that its caption stands in the verdict's report."""
CAPTIONS = ("copyright", "mahjong red dragon", "joker")
"""Of forgotten rows; no other caption or text in the store contains one of these."""

POLICY = """
schema_version: 1
name: one-rule
version: 1
owner: test
rules:
  - {name: explicit, category: sexual, action: drop, when: {score: explicit_image, above: 0.45}}
"""

RECIPE = """
schema_version: 1
name: curation
steps:
  judge:
    kind: judge
    corpus: ${{artifact:corpus/{corpus}}}
    annotation: ${{artifact:annotation/{annotation}}}
    clusters: ${{artifact:clusters/{clusters}}}
    truth: ${{artifact:urls/{urls}}}
    policy: policy.yaml
    split: {{train: 0.4, validation: 0.3, test: 0.3}}
  clip:
    kind: train_clip
    annotation: ${{artifact:annotation/{annotation}}}
    verdict: {verdict}
    steps: 40
"""


def curated(root: Path) -> dict[str, Artifact]:
    """Corpus, annotation and clusters, without Ray: all but the vectors and the one score is real."""
    corpus = annotated.curation_corpus(root)
    annotation = _annotation(root, corpus)
    clusters = annotated.deduplicate(root, annotation, semantic=None, same_caption=None)
    return {"corpus": corpus, "annotation": annotation, "clusters": clusters}


def make_root(source: dict[str, Artifact], root: Path) -> dict[str, Artifact]:
    """A root of its own with copies of `source`, and a site that served the corpus."""
    for artifact in source.values():
        shutil.copytree(artifact.path, root / "store" / artifact.kind / artifact.path.name)
    copies = {kind: Artifact.open(root / "store" / kind / a.path.name) for kind, a in source.items()}
    return copies | {"urls": _site(root, copies["corpus"])}


def write_recipe(root: Path, inputs: dict[str, Artifact], verdict: str = "${steps.judge}") -> Path:
    path = root / "recipe.yaml"
    (root / "policy.yaml").write_text(POLICY)
    addresses = {kind: artifact.address[:20] for kind, artifact in inputs.items()}
    path.write_text(RECIPE.format(**addresses, verdict=verdict))
    return path


def write_list(root: Path, corpus: Artifact) -> Path:
    """What to forget, and in the last line what no corpus has."""
    rows = {row["key"]: row for row in corpus_rows(corpus)}
    names: list[dict[str, str]] = [{"url": annotated.url(row).replace("http", "HTTP")} for row in BY_URL]
    names.append({"sha256": rows[annotated.key(BY_HASH)]["sha256"]})
    names.append({"corpus": corpus.address[:12], "key": annotated.key(BY_PLACE)})
    names.append({"url": "http://example.org/never-fetched.jpg"})
    path = root / "list.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["url", "sha256", "corpus", "key"])
        writer.writeheader()
        writer.writerows(names)
    return path


def corpus_rows(corpus: Artifact) -> list[dict[str, Any]]:
    tables = [pq.read_table(corpus.path / f"{record.name}.parquet") for record in corpus.shards]
    return pa.concat_tables(tables).to_pylist()


def images_of(corpus: Artifact) -> dict[str, bytes]:
    """Image bytes by key."""
    return {
        sample.key: sample.image
        for record in corpus.shards
        for sample in read_tar(corpus.path / f"{record.name}.tar")
    }


def evaluation(root: Path, inputs: dict[str, Artifact], picture: bytes) -> Artifact:
    """An evaluation whose grid is `picture`."""
    draft = Store(root).draft("evaluation", hashlib.sha256(b"evaluation").hexdigest())
    for name in ("grid.png", "overview.png", "evaluation.html"):
        draft.write_bytes(name, picture if name == "grid.png" else name.encode())
    step = {"kind": "evaluate", "version": 1, "config": {}}
    return finish(draft, step=step, inputs=inputs, summary={}, seconds=0.0, rows=Rows(total=1, kept=1))


def embeddings(root: Path, annotation: Artifact) -> Artifact:
    """What `embed` would make of the annotation, but for its numbers."""
    draft = Store(root).draft("embeddings", hashlib.sha256(b"embeddings").hexdigest())
    for record in annotation.shards:
        files = {name: draft.temporary(name) for name in record.sha256}
        for name, temporary in files.items():
            shutil.copyfile(annotation.path / name, temporary)
        draft.commit_shard(record.name, files, record.rows)
    step = {"kind": "e", "version": 1, "config": {}}
    return finish(draft, step=step, inputs={"annotation": annotation}, summary={}, seconds=0.0)


def leave_unfinished(root: Path, inputs: dict[str, Artifact]) -> None:
    """What killed runs leave: half a corpus, half an annotation, a training's scratch."""
    for kind in ("corpus", "annotation"):
        half = root / "store" / kind / ("f" * 20)
        shutil.copytree(inputs[kind].path, half)
        (half / "manifest.json").unlink()
    (root / "store" / "corpus" / ("f" * 20) / "_shards" / "00002.json").unlink()
    scratch = root / "store" / "prior" / ("f" * 20) / WORK
    scratch.mkdir(parents=True)
    (scratch / "index.arrow").write_text(CAPTIONS[0])
    (scratch / "step-1.safetensors").write_text("weights")


def everything_in(root: Path) -> bytes:
    """Every byte of the store, tables and arrays also as what they decode to."""
    out = io.BytesIO()
    for path in sorted((root / "store").rglob("*")):
        if path.is_file():
            out.write(path.read_bytes())
        if path.suffix == ".parquet":
            out.write(json.dumps(pq.read_table(path).to_pylist(), default=repr, ensure_ascii=False).encode())
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                out.writelines(archive.read(name) for name in archive.namelist())
    return out.getvalue()


def embedding_of(annotation: Artifact, row: int) -> bytes:
    """The image embedding of a row of the first corpus shard that was fetched."""
    vectors = np.load(annotation.path / "img_emb/img_emb_00000.npy")
    return vectors[row].tobytes()


def _annotation(root: Path, corpus: Artifact) -> Artifact:
    """Metadata as `annotate` writes it, of two unlike views of random vectors."""
    draft = Store(root).draft("annotation", hashlib.sha256(b"forgetting").hexdigest())
    draft.write_bytes(ENCODER_FILE, b'{"name": "lit-towers", "precision": "fp32"}')
    random = np.random.default_rng(0)
    for record in corpus.shards:
        entries = index_shard(corpus.path, record.name)
        chunk = decode_chunk(corpus.path, record.name, entries, 0, len(entries))
        columns = {
            "key": chunk.keys,
            "caption": chunk.captions,
            "status": chunk.statuses,
            "sha256": chunk.sha256,
            "width": pa.array([128] * len(entries), pa.int32()),
            "height": pa.array([128] * len(entries), pa.int32()),
            "phash": chunk.hashes[:, 0],
            "dhash": chunk.hashes[:, 1],
            "thumbnail": [row.tobytes() for row in chunk.thumbnails],
            "explicit_image": pa.array(
                [0.9 if key == annotated.key(BY_RULE) else 0.1 for key in chunk.keys], pa.float32()
            ),
        }
        files = {}
        for which, width in (("img", 24), ("text", 16)):
            name = embedding_file(which, record.name)  # type: ignore[arg-type]
            files[name] = draft.temporary(name)
            with files[name].open("wb") as stream:
                np.save(stream, random.normal(size=(len(entries), width)).astype(np.float16))
        name = metadata_file(record.name)
        files[name] = draft.temporary(name)
        write_parquet(files[name], pa.table(columns))
        damaged = len(entries) - len(chunk.intact)
        reasons = {"damaged_image": damaged} if damaged else {}
        rows = Rows(total=len(entries), kept=len(chunk.intact), failed=damaged, reasons=reasons)
        draft.commit_shard(record.name, files, rows)
    step = {"kind": "a", "version": 1, "config": {}}
    return finish(draft, step=step, inputs={"corpus": corpus}, summary={}, seconds=0.0)


def _site(root: Path, corpus: Artifact) -> Artifact:
    draft = Store(root).draft("urls", hashlib.sha256(b"site").hexdigest())
    rows = corpus_rows(corpus)
    urls = [row["url"] for row in rows]
    listed = {"url": urls, "caption": [row["caption"] for row in rows]}
    truth = {"url": urls} | {
        name: [""] * len(rows) for name in ("trouble", "category", "half", "duplicate_of")
    }
    for name, columns in (("urls.parquet", listed), ("truth.parquet", truth)):
        temporary = draft.temporary(name)
        write_parquet(temporary, pa.table(columns))
        draft.commit_file(name, temporary)
    images, temporary = images_of(corpus), draft.temporary("00000.zip")
    with zipfile.ZipFile(temporary, "w") as archive:
        for number, row in enumerate(rows):
            if row["key"] in images:
                archive.writestr(zipfile.ZipInfo(f"{number}.jpg"), images[row["key"]])
    draft.commit_shard("00000", {"site/00000.zip": temporary}, Rows(total=len(rows), kept=len(rows)))
    return finish(draft, step={"kind": "s", "version": 1, "config": {}}, inputs={}, summary={}, seconds=0.0)


if __name__ == "__main__":
    from workflows.cli.main import run_cli

    left, rename = int(sys.argv[1]), Path.replace

    def replace(self: Path, target: Path) -> Path:
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]
    sys.exit(run_cli(sys.argv[2:]))
