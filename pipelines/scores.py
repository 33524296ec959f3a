"""Stored scores and embeddings of an annotation as flat arrays, failed and forgotten samples left out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from filters.choose import declared_specs
from filters.registry import nearest
from filters.scorer import Direction, ScoreSpec
from filters.weights import WeightsError
from infra.forget import ForgetList
from infra.store import Artifact, StoreError
from pipelines.aligned import read_embeddings, read_metadata, shard_names
from pipelines.annotate.config import AnnotateConfig
from pipelines.forget.rows import forgotten_keys

SUCCESS = "success"


class UnknownScoreError(ValueError):
    """A score that the annotation does not hold."""


@dataclass(frozen=True, kw_only=True)
class ScoredSamples:
    """All usable samples of an annotation in corpus order."""

    annotation: Artifact
    table: pa.Table
    """`key, caption, sha256` and the scores asked for."""
    shards: tuple[str, ...]
    rows: tuple[np.ndarray, ...]
    """Of each shard the positions of its usable samples, as the embeddings have them."""

    @property
    def keys(self) -> list[str]:
        return [str(key) for key in self.table["key"].to_pylist()]

    @property
    def images(self) -> dict[str, str]:
        """The sha256 of each key's image."""
        return dict(zip(self.keys, map(str, self.table["sha256"].to_pylist()), strict=True))

    def score(self, name: str) -> Float[np.ndarray, " n"]:
        """One column of scores."""
        return self.table[name].to_numpy().astype(np.float32)

    def image_embeddings(self) -> Float[np.ndarray, "n d"]:
        """float32 image embeddings of the samples, not normalised; all in memory at once."""
        parts = [
            np.asarray(read_embeddings(self.annotation, "img", shard)[rows], np.float32)
            for shard, rows in zip(self.shards, self.rows, strict=True)
        ]
        return np.concatenate(parts)


def corpus_of(annotation: Artifact) -> Artifact:
    """The corpus an annotation was made from; raises StoreError where it lies in the store no more."""
    source = annotation.manifest["inputs"].get("corpus")
    if source is None:
        raise StoreError(f"{annotation.path}: names no corpus it was made from")
    return Artifact.open(annotation.path.parents[1] / "corpus" / source["address"][:20])


def read_scores(annotation: Artifact, scores: Sequence[str]) -> ScoredSamples:
    """The named `scores` of all samples that were decoded and are not forgotten.

    Raises UnknownScoreError for a score that was not computed.
    """
    corpus = corpus_of(annotation)
    gone = {
        shard: set(keys) for shard, keys in forgotten_keys(corpus, ForgetList.open(corpus.path.parents[1]))
    }
    columns = list(dict.fromkeys(["key", "caption", "sha256", *scores]))
    tables, positions = [], []
    for shard in shard_names(annotation):
        metadata = read_metadata(annotation, shard)
        _require(metadata, scores)
        keys, statuses = metadata["key"].to_pylist(), metadata["status"].to_pylist()
        lost = gone.get(shard, set())
        rows = [
            row
            for row, (key, status) in enumerate(zip(keys, statuses, strict=True))
            if status == SUCCESS and key not in lost
        ]
        tables.append(metadata.select(columns).take(pa.array(rows, pa.int64())))
        positions.append(np.array(rows, np.int64))
    return ScoredSamples(
        annotation=annotation,
        table=pa.concat_tables(tables),
        shards=tuple(shard_names(annotation)),
        rows=tuple(positions),
    )


def worse_end(annotation: Artifact, score: str) -> Direction | None:
    """Which end of a stored score its scorer declares worse; None for one that no scorer of ours made.

    Scores that depend on a scorer's options are asked of the scorer as it was configured.  Raises ValueError
    where that one cannot be loaded any more.
    """
    names = annotation.config.get("scorers", ())
    for specs in itertools.chain(map(declared_specs, names), _configured_specs(annotation, names)):
        for spec in specs:
            if spec.name == score:
                return spec.worse
    return None


def _configured_specs(annotation: Artifact, names: Sequence[str]) -> Iterator[tuple[ScoreSpec, ...]]:
    for name in names:
        if not declared_specs(name):
            try:
                yield AnnotateConfig.model_validate(annotation.config).load_scorer(name).specs
            except (OSError, WeightsError) as error:
                raise ValueError(f"scorer {name!r} cannot be loaded: {error}") from error


def _require(metadata: pa.Table, scores: Sequence[str]) -> None:
    known = [field.name for field in metadata.schema if pa.types.is_floating(field.type)]
    for name in scores:
        if name not in known:
            raise UnknownScoreError(
                f"unknown score {name!r}{nearest(name, known)}; stored: {', '.join(sorted(known)) or 'none'}"
            )
