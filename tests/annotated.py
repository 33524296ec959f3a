"""A corpus of 24 drawings with what curation must cope with, and the real steps over it.

Row 7 failed to download, row 9 is damaged, row 10 is row 0 again, row 18 is row 2 saved smaller, row 20 has
a planted caption and row 21 the same picture with a harmless one.  Steps are memoised in the root, so every
test module that asks for them with the session's root shares one run.

Run as a module it annotates in a process of its own and kills itself (-9) once it has heard of so many
samples: `python -m tests.annotated ROOT SAMPLES`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.progress import Progress
from infra.shards import Sample, sample_key, shard_name, write_parquet, write_tar
from infra.store import Artifact, Rows, Store, finish
from pipelines.aligned import ENCODER_FILE, embedding_file, metadata_file, shard_names
from pipelines.annotate.config import AnnotateConfig, AnnotateResources
from pipelines.annotate.step import Annotate
from pipelines.deduplicate import Deduplicate, DeduplicateConfig
from tests.small_crawl import run_step
from tests.tiny import emoji_images

SHARD_SIZE, COUNT = 8, 24
FAILED, DAMAGED, COPY, SMALLER, PLANTED, TWIN = 7, 9, 10, 18, 20, 21
CONFIG = AnnotateConfig(corpus="corpus", chunk=3)
PLANTED_FILE = Path(__file__).parent.parent / "pipelines/demo/planted_captions.csv"


def planted_caption() -> dict[str, str]:
    """The first violent caption of the open half."""
    with PLANTED_FILE.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["half"] == "open"]
    return next(row for row in rows if row["category"] == "violent")


def key(row: int) -> str:
    return sample_key(row // SHARD_SIZE, row % SHARD_SIZE, SHARD_SIZE)


def url(row: int) -> str:
    return f"http://127.0.0.1/{row}.jpg"


def curation_corpus(root: Path) -> Artifact:
    """The corpus, made once per root."""
    address = hashlib.sha256(b"curation").hexdigest()
    if found := Store(root).find("corpus", address):
        return found
    draft = Store(root).draft("corpus", address)
    rows = _rows()
    for index in range(COUNT // SHARD_SIZE):
        part = rows[index * SHARD_SIZE : (index + 1) * SHARD_SIZE]
        name = shard_name(index)
        fetched = [row for row in part if row["status"] == "success"]
        samples = [
            Sample(
                key=row["key"],
                image=row["image"],
                extension="jpg",
                caption=row["caption"],
                metadata={"key": row["key"]},
            )
            for row in fetched
        ]
        tar, table = draft.temporary(f"{name}.tar"), draft.temporary(f"{name}.parquet")
        write_tar(tar, samples)
        write_parquet(
            table, pa.Table.from_pylist([{k: v for k, v in r.items() if k != "image"} for r in part])
        )
        lost = len(part) - len(fetched)
        account = Rows(
            total=len(part), kept=len(fetched), failed=lost, reasons={"gone": lost} if lost else {}
        )
        draft.commit_shard(name, {f"{name}.tar": tar, f"{name}.parquet": table}, account)
    return finish(draft, step={"kind": "c", "version": 1, "config": {}}, inputs={}, summary={}, seconds=0.0)


def _rows() -> list[dict[str, Any]]:
    from PIL import Image

    pairs = emoji_images(COUNT)
    pairs[COPY] = pairs[0]
    buffer = io.BytesIO()
    Image.open(io.BytesIO(pairs[2][0])).resize((96, 96)).save(buffer, "JPEG", quality=85)
    pairs[SMALLER] = (buffer.getvalue(), pairs[2][1])
    pairs[DAMAGED] = (pairs[DAMAGED][0][:700], pairs[DAMAGED][1])
    pairs[TWIN] = (pairs[PLANTED][0], pairs[TWIN][1])
    pairs[PLANTED] = (pairs[PLANTED][0], planted_caption()["caption"])
    return [
        {
            "key": key(row),
            "url": url(row),
            "caption": caption,
            "status": "gone" if row == FAILED else "success",
            "sha256": None if row == FAILED else hashlib.sha256(image).hexdigest(),
            "width": 128,
            "height": 128,
            "image": image,
        }
        for row, (image, caption) in enumerate(pairs)
    ]


def truth(root: Path) -> Artifact:
    """What a site would know of these rows."""
    address = hashlib.sha256(b"truth").hexdigest()
    if found := Store(root).find("urls", address):
        return found
    draft = Store(root).draft("urls", address)
    planted = planted_caption()
    rows = [
        {"url": url(row), "trouble": "clean", "category": "", "half": "", "duplicate_of": ""}
        for row in range(COUNT)
    ]
    rows[PLANTED] |= {"trouble": "planted", "category": planted["category"], "half": planted["half"]}
    temporary = draft.temporary("truth.parquet")
    write_parquet(temporary, pa.Table.from_pylist(rows))
    draft.commit_file("truth.parquet", temporary)
    step = {"kind": "t", "version": 1, "config": {}}
    return finish(draft, step=step, inputs={}, summary={}, seconds=0.0, rows=Rows(total=COUNT, kept=COUNT))


def annotate(root: Path, corpus: Artifact, progress: Progress | None = None) -> Artifact:
    resources = AnnotateResources(actors=1, cpus_per_actor=0.5, cpus_per_decoder=0.25)
    return run_step(root, Annotate(), CONFIG, {"corpus": corpus}, resources=resources, progress=progress)


def deduplicate(root: Path, annotation: Artifact, **config: Any) -> Artifact:
    return run_step(
        root, Deduplicate(), DeduplicateConfig(annotation="a", **config), {"annotation": annotation}
    )


def paired_annotation(
    root: Path, corpus: Artifact, seed: int = 0, image_dim: int = 24, text_dim: int = 16
) -> Artifact:
    """Tower features of a corpus in which image and caption are noisy views of one latent vector."""
    address = hashlib.sha256(f"paired{corpus.content}{seed}".encode()).hexdigest()
    draft = Store(root).draft("annotation", address)
    draft.write_bytes(ENCODER_FILE, b'{"name": "lit-towers", "precision": "fp32"}')
    random = np.random.default_rng(seed)
    to_image, to_text = random.normal(size=(8, image_dim)), random.normal(size=(8, text_dim))
    for shard in shard_names(corpus):
        rows = [
            row
            for row in pq.read_table(corpus.path / f"{shard}.parquet").to_pylist()
            if row["status"] == "success"
        ]
        latent = random.normal(size=(len(rows), 8))
        files = {}
        for which, matrix in (("img", to_image), ("text", to_text)):
            name = embedding_file(which, shard)  # type: ignore[arg-type]
            files[name] = draft.temporary(name)
            with files[name].open("wb") as stream:
                noise = 0.1 * random.normal(size=(len(rows), matrix.shape[1]))
                np.save(stream, (latent @ matrix + noise).astype(np.float16))
        name = metadata_file(shard)
        files[name] = draft.temporary(name)
        columns = {column: [row[column] for row in rows] for column in ("key", "caption", "status")}
        write_parquet(files[name], pa.table(columns))
        draft.commit_shard(shard, files, Rows(total=len(rows), kept=len(rows)))
    return finish(draft, step={"kind": "p", "version": 1, "config": {}}, inputs={}, summary={}, seconds=0.0)


class FatalProgress(Progress):
    """Kills its own process, with another shard under way, once `samples` are done."""

    def __init__(self, samples: int) -> None:
        super().__init__("fatal", quiet=True)
        self.samples = samples

    def advance(self, count: int = 1, note: str = "") -> None:
        super().advance(count, note)
        if self.done >= self.samples:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, samples = Path(sys.argv[1]), int(sys.argv[2])
    annotate(folder, curation_corpus(folder), FatalProgress(samples))
