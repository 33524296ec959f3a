"""Applying trained heads to the towers' features: an annotation becomes embeddings of a joint space."""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np

from infra.shards import write_parquet
from infra.store import Rows
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

SIDES: tuple[Literal["img", "text"], ...] = ("img", "text")


class EmbedConfig(StepConfig):
    """Inputs of `embed`; nothing else changes its bytes."""

    annotation: str = input_of("annotation")
    clip_heads: str = input_of("clip_heads")


class Embed(Step[EmbedConfig, Resources]):
    """Projects a `lit-towers` annotation shard by shard into the space of the heads (unit norm, float16)."""

    kind = "embed"
    produces = "embeddings"
    version = 1
    Config = EmbedConfig

    def run(self, context: Context[EmbedConfig, Resources]) -> dict[str, Any]:
        """Writes embeddings in clip-retrieval's layout, with the annotation's keys and captions.

        Raises ValueError where the annotation was not made by the bare towers.
        """
        import torch

        annotation, folder = context.inputs["annotation"], context.inputs["clip_heads"].path
        source = encoder_identity(annotation)
        if source["name"] != "lit-towers":
            raise ValueError(f"embed needs features of lit-towers, got embeddings of {source['name']!r}")
        heads, draft = load_heads(folder), context.draft
        identity = lit_identity(folder, source["precision"])
        draft.write_bytes(ENCODER_FILE, json.dumps(identity, indent=1, sort_keys=True).encode())
        committed = draft.committed()
        names = [name for name in shard_names(annotation) if name not in committed]
        context.progress.start(annotation.rows.kept, done=sum(r.rows.kept for r in committed.values()))
        for name in names:
            files = {}
            for which in SIDES:
                encode = heads.encode_image if which == "img" else heads.encode_text
                features = torch.from_numpy(np.array(read_embeddings(annotation, which, name), np.float32))
                with torch.inference_mode():
                    embeddings = encode(features).numpy().astype(np.float16)
                final = embedding_file(which, name)
                files[final] = draft.temporary(final)
                with files[final].open("wb") as stream:
                    np.save(stream, embeddings)
            final = metadata_file(name)
            files[final] = draft.temporary(final)
            metadata = read_metadata(annotation, name, ["key", "caption"])
            write_parquet(files[final], metadata)
            draft.commit_shard(name, files, Rows(total=len(metadata), kept=len(metadata)))
            context.progress.advance(len(metadata))
        return {"dimension": identity["dimension"], "encoder": identity["name"]}
