"""Commits an annotated shard: embeddings and metadata in clip-retrieval's layout, cut as the corpus is."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from infra.shards import write_parquet
from infra.store import Draft, Rows
from pipelines.aligned import embedding_file, metadata_file
from pipelines.annotate.annotator import AnnotatedChunk
from pipelines.annotate.chunks import SUCCESS

BATCH_KEY = b"encoder_batch"


def commit_shard(draft: Draft, shard: str, *chunks: AnnotatedChunk) -> Rows:
    """Write and commit a shard from its chunks in order (at least one); returns its row account.

    The smallest batch any chunk was encoded with stands in the metadata's schema, `encoder_batch`.
    """
    image_file, text_file, table_file = (
        embedding_file("img", shard),
        embedding_file("text", shard),
        metadata_file(shard),
    )
    files = {name: draft.temporary(name) for name in (image_file, text_file, table_file)}
    for name, parts in (
        (image_file, [chunk.image_embeddings for chunk in chunks]),
        (text_file, [chunk.text_embeddings for chunk in chunks]),
    ):
        with files[name].open("wb") as stream:
            np.save(stream, np.concatenate(parts))
    table = pa.concat_tables([chunk.metadata for chunk in chunks])
    batch = min(chunk.batch for chunk in chunks)
    write_parquet(files[table_file], table.replace_schema_metadata({BATCH_KEY: str(batch)}))
    reasons = Counter(status for status in table["status"].to_pylist() if status != SUCCESS)
    failed = reasons.total()
    account = Rows(
        total=len(table), kept=len(table) - failed, failed=failed, reasons=dict(sorted(reasons.items()))
    )
    draft.commit_shard(shard, files, account)
    return account
