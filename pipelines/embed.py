"""Embed: tower features through the trained heads, into one space of unit-norm embeddings."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from infra.shards import write_parquet
from infra.store import Artifact, Draft, Rows
from pipelines.aligned import (
    ENCODER_FILE,
    embedding_file,
    encoder_identity,
    metadata_file,
    read_embeddings,
    read_metadata,
    shard_names,
)
from pipelines.encoders.lit import lit_identity, load_heads
from pipelines.step import Context, Resources, Step, StepConfig, input_of


class EncoderMismatchError(ValueError):
    """Features and heads belong to different encoders."""


class EmbedConfig(StepConfig):
    """Features and the heads fitted on them."""

    annotation: str = input_of("annotation")
    clip_heads: str = input_of("clip_heads")


class EmbedResources(Resources):
    """Shards embedded at a time."""

    in_flight: int = Field(default=2, ge=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedJob:
    """One shard to embed."""

    draft: Draft
    annotation: Artifact
    heads: Path
    shard: str


class Embed(Step[EmbedConfig, EmbedResources]):
    """Writes `img_emb`, `text_emb` (float16, unit norm) and `metadata` (key, caption, status) per shard.

    A sample that annotation could not decode keeps its row, with zero embeddings and its status.  Encoders
    with a common space of their own (open_clip) need no such step: their annotation is used as embeddings.
    """

    kind = "embed"
    produces = "embeddings"
    version = 1
    Config = EmbedConfig
    Resources = EmbedResources

    def run(self, context: Context[EmbedConfig, EmbedResources]) -> dict[str, Any]:
        from pipelines.distribute import for_each

        annotation, heads = context.inputs["annotation"], context.inputs["clip_heads"]
        towers = encoder_identity(annotation)
        if encoder_identity(heads) != towers:
            raise EncoderMismatchError(
                f"heads {heads.path} were fitted on features of {encoder_identity(heads)}, "
                f"but annotation {annotation.path} has features of {towers}; fit heads on this annotation"
            )
        identity = lit_identity(heads.path, towers["precision"])
        context.draft.write_bytes(
            ENCODER_FILE, (json.dumps(identity, indent=1, sort_keys=True) + "\n").encode()
        )
        committed = context.draft.committed()
        jobs = [
            EmbedJob(draft=context.draft, annotation=annotation, heads=heads.path, shard=shard)
            for shard in shard_names(annotation)
            if shard not in committed
        ]
        context.progress.start(annotation.rows.total, done=sum(r.rows.total for r in committed.values()))
        for account in for_each(embed_shard, jobs, in_flight=context.resources.in_flight):
            context.progress.advance(account.total)
        return {"samples": annotation.rows.total, "dimension": identity["dimension"]}


def embed_shard(job: EmbedJob) -> Rows:
    """Embed and commit one shard; returns its row account."""
    import torch

    torch.set_num_threads(1)
    heads = load_heads(job.heads)
    metadata = read_metadata(job.annotation, job.shard, ["key", "caption", "status"])
    intact = np.array(metadata["status"].to_pylist(), dtype=str) == "success"
    files = {}
    for which, encode in (("img", heads.encode_image), ("text", heads.encode_text)):
        features = np.array(read_embeddings(job.annotation, which, job.shard), dtype=np.float32)  # type: ignore[arg-type]
        with torch.inference_mode():
            embeddings = encode(torch.from_numpy(features)).numpy() if len(features) else features
        name = embedding_file(which, job.shard)  # type: ignore[arg-type]
        files[name] = job.draft.temporary(name)
        with files[name].open("wb") as stream:
            np.save(stream, np.where(intact[:, None], embeddings, 0).astype(np.float16))
    table = metadata_file(job.shard)
    files[table] = job.draft.temporary(table)
    write_parquet(files[table], metadata)
    reasons = Counter(status for status in metadata["status"].to_pylist() if status != "success")
    failed = reasons.total()
    account = Rows(
        total=len(metadata), kept=len(metadata) - failed, failed=failed, reasons=dict(sorted(reasons.items()))
    )
    job.draft.commit_shard(job.shard, files, account)
    return account
