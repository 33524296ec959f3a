"""Stored scores and embeddings with a known structure, in the layout of `annotate`: no model, no Ray.

Of the tiny corpus' 36 fetched samples every third is `positive`: it scores `alarm` .6 to .9 (the others .1 to
.6) and lies on the other side of the origin.  `opinion` is `alarm` but for one sample, on which the two
disagree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.shards import write_parquet
from infra.store import Artifact, Rows, Store, finish
from pipelines.aligned import ENCODER_FILE, embedding_file, metadata_file

DISPUTED = 16
"""Row, among the fetched samples, on which `opinion` differs most from `alarm`."""
WIDTH = 8


def positive(row: int) -> bool:
    return row % 3 == 0


def scored_annotation(
    root: Path,
    corpus: Artifact,
    seed: int = 0,
    *,
    renamed: Mapping[str, str] = MappingProxyType({}),
    scorers: Sequence[str] = (),
) -> Artifact:
    """`renamed`: other names of the two scores; `scorers`: who is said to have made them."""
    address = hashlib.sha256(f"scored{corpus.content}{seed}{dict(renamed)}".encode()).hexdigest()
    if found := Store(root).find("annotation", address):
        return found
    draft = Store(root).draft("annotation", address)
    draft.write_bytes(ENCODER_FILE, f'{{"name": "scored", "dimension": {WIDTH}}}'.encode())
    random, first = np.random.default_rng(seed), 0
    for record in corpus.shards:
        listed = pq.read_table(corpus.path / f"{record.name}.parquet").to_pylist()
        rows = [row for row in listed if row["status"] == "success"]
        truth = np.array([positive(first + i) for i in range(len(rows))])
        numbers = np.arange(first, first + len(rows))
        alarm = np.where(truth, 0.6 + numbers / 120, 0.1 + numbers / 72)
        opinion = np.where(numbers == DISPUTED, 0.99, alarm)
        files = {}
        for which in ("img", "text"):
            name = embedding_file(which, record.name)  # type: ignore[arg-type]
            files[name] = draft.temporary(name)
            vectors = np.where(truth[:, None], -1.0, 1.0) + 0.5 * random.normal(size=(len(rows), WIDTH))
            with files[name].open("wb") as stream:
                np.save(stream, vectors.astype(np.float16))
        name = metadata_file(record.name)
        files[name] = draft.temporary(name)
        columns = {column: [row[column] for row in rows] for column in ("key", "caption", "status", "sha256")}
        for score, values in {"alarm": alarm, "opinion": opinion}.items():
            columns[renamed.get(score, score)] = list(values.astype(np.float32))
        write_parquet(files[name], pa.table(columns))
        draft.commit_shard(record.name, files, Rows(total=len(rows), kept=len(rows)))
        first += len(rows)
    step = {"kind": "scored", "version": 1, "config": {"corpus": "c", "scorers": list(scorers)}}
    return finish(draft, step=step, inputs={"corpus": corpus}, summary={}, seconds=0.0)


def keys_of(annotation: Artifact) -> list[str]:
    """Keys of the fetched samples, in order."""
    tables = [pq.read_table(annotation.path / metadata_file(record.name)) for record in annotation.shards]
    return [str(key) for key in pa.concat_tables(tables)["key"].to_pylist()]
