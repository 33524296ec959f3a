"""Duplicates as the step finds them, in clusters with a best copy and a concept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from filters.semantic_duplicates import Vectors, clustered_pairs
from infra.store import Artifact
from pipelines.aligned import read_metadata, read_table, shard_names
from pipelines.concepts import compile_ignored, concept_of
from pipelines.deduplicate import DeduplicateConfig, Semantic, clusters_table, find_pairs
from tests import annotated

SKIN_TONE = r"\b(medium-light|medium-dark|light|medium|dark) skin tone"


@pytest.fixture(scope="module")
def annotation(tiny_root: Path) -> Artifact:
    return annotated.annotate(tiny_root, annotated.curation_corpus(tiny_root))


def _table(artifact: Artifact) -> dict[str, dict[str, object]]:
    rows = pa.concat_tables([read_table(artifact, shard) for shard in shard_names(artifact)]).to_pylist()
    return {row["key"]: row for row in rows}


def test_copies_share_a_cluster_and_the_largest_is_kept(tiny_root: Path, annotation: Artifact) -> None:
    clusters = annotated.deduplicate(tiny_root, annotation, semantic=None)
    rows = _table(clusters)
    for copy, original, method in (
        (annotated.COPY, 0, "exact"),
        (annotated.SMALLER, 2, "perceptual"),
        (annotated.TWIN, annotated.PLANTED, "exact"),
    ):
        first, second = rows[annotated.key(original)], rows[annotated.key(copy)]
        assert first["cluster"] == second["cluster"] == first["key"]
        assert first["kept_copy"] and not second["kept_copy"]
        assert (first["rank"], second["rank"]) == (0, 1)
        assert second["method"] == method
    assert clusters.summary["duplicates"] == 3
    assert sum(row["kept_copy"] for row in rows.values()) == clusters.summary["clusters"] == 20


def test_one_row_per_annotated_sample(tiny_root: Path, annotation: Artifact) -> None:
    clusters = annotated.deduplicate(tiny_root, annotation, semantic=None)
    for shard in shard_names(annotation):
        expected = read_metadata(annotation, shard, ["key"])["key"]
        assert read_table(clusters, shard, ["key"])["key"].to_pylist() == expected.to_pylist()
    alone = _table(clusters)[annotated.key(annotated.DAMAGED)]
    assert alone["kept_copy"] and alone["cluster"] == alone["concept"] == alone["key"]


def test_variants_with_the_same_words_are_one_cluster(tmp_path: Path) -> None:
    """Alike pictures alone do not join distinct things, nor do words alone; both together do."""
    config = DeduplicateConfig(
        annotation="a", exact=False, perceptual=None, ignored_in_captions=(SKIN_TONE, "^a drawing of ")
    )
    captions = ["OK hand", "a drawing of OK hand: dark skin tone", "OK hand", "woman", "man"]
    angles = np.radians([0, 40, 100, 3, 45])
    vectors = Vectors.of([np.stack([np.cos(angles), np.sin(angles)], axis=1)])
    table = pa.table(
        {
            "key": [f"{i}" for i in range(5)],
            "caption": captions,
            "width": [64] * 5,
            "height": [64] * 5,
        }
    )
    pairs = find_pairs(
        table,
        vectors,
        config,
        lambda limit, seed: clustered_pairs(
            vectors, 0.9, clusters=limit.clusters, seed=seed, folder=tmp_path
        ),
    )
    assert pairs["same_caption"].tolist() == [[0, 1]]
    assert pairs["semantic"].tolist() == [[0, 3], [1, 4]]
    rows = clusters_table(table, {"same_caption": pairs["same_caption"]}, config)
    assert rows["cluster"].to_pylist() == ["0", "0", "2", "3", "4"]
    assert rows["concept"].to_pylist() == ["0", "0", "0", "3", "4"]  # a split never parts one concept


def test_a_moved_threshold_compares_nothing_anew(
    tiny_root: Path, annotation: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(min_cosine: float) -> Semantic:
        return Semantic(min_cosine=min_cosine, stored_from=0.6, clusters=2, seeds=(0, 1))

    strict = annotated.deduplicate(tiny_root, annotation, semantic=settings(0.99), perceptual=None)
    monkeypatch.setattr("pipelines.pair_cache.clustered_pairs", None)  # to call it would raise
    loose = annotated.deduplicate(tiny_root, annotation, semantic=settings(0.65), perceptual=None)
    assert loose.summary["duplicates_semantic"] > strict.summary["duplicates_semantic"]


def test_concepts() -> None:
    ignored = compile_ignored((SKIN_TONE, r"^a drawing of ", r", flat icon$"))
    assert concept_of("A drawing of Waving Hand", ignored) == "waving hand"
    assert concept_of("waving hand: medium-dark skin tone, flat icon", ignored) == "waving hand"
    assert concept_of("dark skin tone", ignored) == ""
    assert concept_of("keycap #", ignored) != concept_of("keycap *", ignored)
    with pytest.raises(ValueError, match=r"pattern '\(': .*"):
        DeduplicateConfig(annotation="a", ignored_in_captions=("(",))


def test_where_there_is_nothing_there_are_no_duplicates() -> None:
    columns = {"key": pa.string(), "caption": pa.string(), "sha256": pa.string(), "thumbnail": pa.binary(768)}
    columns |= {"width": pa.int32(), "height": pa.int32(), "phash": pa.uint64(), "dhash": pa.uint64()}
    samples = pa.table({name: pa.array([], kind) for name, kind in columns.items()})
    config = DeduplicateConfig(annotation="a")
    vectors = Vectors.of([np.zeros((0, 4), np.float32)])
    pairs = find_pairs(samples, vectors, config, lambda *_: pytest.fail("there is nothing to compare"))
    assert pairs == {} and len(clusters_table(samples, pairs, config)) == 0
