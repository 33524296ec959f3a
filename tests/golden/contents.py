"""What steps make of the same small inputs, as digests: `python -m tests.golden.contents` records them anew.

Covered are the steps whose output is the same on every x86-64 machine with the locked packages.  Annotation,
embedding and training end in floating point sums, whose last bits differ between CPUs; of the verdict
everything but the scores is compared.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.digests import digest_of
from infra.store import Artifact
from pipelines.aligned import shard_names
from pipelines.judge.step import Judge, JudgeConfig
from pipelines.registry import load_step
from tests import annotated
from tests.small_crawl import acquire, acquire_config, make_site, run_step

RECORD = Path(__file__).with_name("contents.json")
PORT = 8749  # URLs are part of what is digested


def contents(root: Path) -> dict[str, dict[str, Any]]:
    """Kind of step -> its version and the digest of what it makes; runs the steps under `root`."""
    site = make_site(root, PORT)
    corpus = acquire(root, site, acquire_config(PORT))
    drawings = annotated.curation_corpus(root)
    annotation = annotated.annotate(root, drawings)
    clusters = annotated.deduplicate(root, annotation, semantic=None)
    inputs = {"corpus": drawings, "annotation": annotation, "clusters": clusters}
    verdict = run_step(root, Judge(), JudgeConfig(corpus="c", annotation="a", clusters="d"), inputs)
    digests = {
        "openmoji_site": site.content,
        "acquire": corpus.content,
        "deduplicate": digest_of(exact_columns(clusters)),
        "judge": digest_of(exact_columns(verdict)),
    }
    return {kind: {"version": load_step(kind).version, "content": d} for kind, d in digests.items()}


def exact_columns(artifact: Artifact) -> list[dict[str, Any]]:
    """The artifact's rows without the columns that hold floating point numbers."""
    tables = [pq.read_table(artifact.path / f"{shard}.parquet") for shard in shard_names(artifact)]
    table = pa.concat_tables(tables)
    names = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
    return list(table.select(names).to_pylist())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        RECORD.write_text(json.dumps(contents(Path(folder)), indent=1) + "\n")
