"""Duplicates as the step finds them, in clusters with a best copy and a concept."""

from __future__ import annotations

import tracemalloc
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from filters.semantic_duplicates import Vectors, clustered_pairs
from infra.store import Artifact
from pipelines.aligned import read_metadata, read_table, shard_names
from pipelines.concepts import compile_ignored, concept_of
from pipelines.deduplicate import Clusters, DeduplicateConfig, Semantic, find_pairs
from pipelines.fingerprints import Fingerprints, same_concept
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
    samples = Fingerprints.read([metadata_of(captions)], tmp_path, config.ignored_in_captions)
    pairs = find_pairs(
        samples,
        vectors,
        config,
        lambda images, _, seed: clustered_pairs(images, 0.9, clusters=1, seed=seed, folder=tmp_path),
    )
    assert pairs["same_caption"].tolist() == [[0, 1]]
    assert pairs["semantic"].tolist() == [[0, 3], [1, 4]]
    rows = Clusters.of(samples, {"same_caption": pairs["same_caption"]}).table(np.arange(5))
    assert [int(key) for key in rows["cluster"].to_pylist()] == [0, 0, 2, 3, 4]
    assert [int(key) for key in rows["concept"].to_pylist()] == [
        0,
        0,
        0,
        3,
        4,
    ]  # a split never parts one concept


def test_a_moved_threshold_compares_nothing_anew(
    tiny_root: Path, annotation: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(min_cosine: float) -> Semantic:
        return Semantic(min_cosine=min_cosine, stored_from=0.6, clusters=2, seeds=(0, 1))

    strict = annotated.deduplicate(tiny_root, annotation, semantic=settings(0.99), perceptual=None)
    monkeypatch.setattr("pipelines.pair_cache.clustered_pairs", None)  # to call it would raise
    loose = annotated.deduplicate(tiny_root, annotation, semantic=settings(0.65), perceptual=None)
    assert loose.summary["duplicates_semantic"] > strict.summary["duplicates_semantic"]
    found, true = (loose.summary[f"semantic_sampled_pairs{which}"] for which in ("_found", ""))
    assert loose.summary["semantic_clusters"] == 2 and 0 < found <= true


def test_copies_cost_no_square_of_pairs_and_cluster_as_before(tmp_path: Path) -> None:
    """Two thousand copies of a placeholder with one caption would be 2 million pairs of each finder."""
    count = 2_000
    table = metadata_of(["no image"] * count + ["a rose", "no image"])
    for name in ("sha256", "phash", "dhash", "thumbnail"):
        values = table[name].to_pylist()
        values[:count] = [values[0]] * count
        if name != "sha256":  # the last but one is the placeholder in another file
            values[count] = values[0]
        table = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
    samples = Fingerprints.read([table], tmp_path)
    vectors = Vectors.of([np.repeat(np.float32([[1, 0], [0, 1]]), [count + 1, 1], axis=0)])
    compared: list[int] = []

    def clustering(images: Vectors, _: Semantic, seed: int) -> tuple[np.ndarray, np.ndarray]:
        compared.append(len(images))
        return clustered_pairs(images, 0.9, clusters=1, seed=seed, folder=tmp_path)

    pairs = find_pairs(samples, vectors, DeduplicateConfig(annotation="a"), clustering)
    assert compared == [3]
    assert {name: len(found) for name, found in pairs.items()} == {
        "exact": count - 1,
        "perceptual": count,
        "same_caption": count - 1,
        "semantic": count,
    }
    assert set(Clusters.of(samples, pairs).cluster.tolist()) == {0, count + 1}


def test_many_images_are_compared_in_clusters_unless_told_otherwise() -> None:
    small, large = 50_000, 1_000_000
    assert (Semantic().clusters_of(small), Semantic().seeds_of(small)) == (1, (0,))
    assert (Semantic().clusters_of(large), Semantic().seeds_of(large)) == (1_000, (0, 1, 2, 3, 4))
    told = Semantic(clusters=1, seeds=(7,))
    assert (told.clusters_of(large), told.seeds_of(large)) == (1, (7,))


def test_concepts() -> None:
    ignored = compile_ignored((SKIN_TONE, r"^a drawing of ", r", flat icon$"))
    assert concept_of("A drawing of Waving Hand", ignored) == "waving hand"
    assert concept_of("waving hand: medium-dark skin tone, flat icon", ignored) == "waving hand"
    assert concept_of("dark skin tone", ignored) == ""
    assert concept_of("keycap #", ignored) != concept_of("keycap *", ignored)
    with pytest.raises(ValueError, match=r"pattern '\(': .*"):
        DeduplicateConfig(annotation="a", ignored_in_captions=("(",))


def test_where_there_is_nothing_there_are_no_duplicates(tmp_path: Path) -> None:
    samples = Fingerprints.read([metadata_of([])], tmp_path)
    vectors = Vectors.of([np.zeros((0, 4), np.float32)])
    config = DeduplicateConfig(annotation="a")
    pairs = find_pairs(samples, vectors, config, lambda *_: pytest.fail("there is nothing to compare"))
    clusters = Clusters.of(samples, pairs)
    assert pairs == {} and len(clusters.table(np.arange(0))) == 0 and clusters.summary()["samples"] == 0


def test_shards_and_their_borders_change_nothing(tmp_path: Path) -> None:
    """Read as one table or as three, with a damaged row: the same fingerprints, thumbnails on disk."""
    random = np.random.default_rng(0)
    captions = [f"thing {i}" for i in random.integers(40, size=100)]
    whole = metadata_of(captions, damaged=(7, 63))
    once = Fingerprints.read([whole], tmp_path)
    (tmp_path / "parts").mkdir()
    parts = [whole.slice(0, 7), whole.slice(7, 56), whole.slice(63)]
    again = Fingerprints.read(parts, tmp_path / "parts")
    assert again.lengths == (7, 56, 37) and isinstance(again.thumbnails, np.memmap)
    for name in ("intact", "areas", "concepts", "sha256", "hashes", "thumbnails"):
        assert np.array_equal(getattr(once, name), getattr(again, name)), name
    assert once.keys.equals(again.keys) and len(once.thumbnails) == 98
    assert [group.tolist() for group in same_concept(once.concepts)] == sorted(
        (
            [i for i, other in enumerate(captions) if other == one]
            for one in set(captions)
            if captions.count(one) > 1
        ),
        key=lambda rows: once.concepts[rows[0]],
    )


def test_memory_does_not_hold_the_thumbnails(tmp_path: Path) -> None:
    """A thumbnail weighs 768 bytes; what stays in memory of a sample is less than a third of one."""
    table = metadata_of(["a caption"] * 2_000)
    tracemalloc.start()
    samples = Fingerprints.read((table for _ in range(20)), tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples.keys) == 40_000 and held < 40_000 * 250


def metadata_of(captions: list[str], damaged: Collection[int] = ()) -> pa.Table:
    """Metadata as `annotate` writes it, of samples that have nothing but perhaps their captions in common."""
    count, random = len(captions), np.random.default_rng(1)
    return pa.table(
        {
            "key": pa.array([f"{row:09d}" for row in range(count)], pa.string()),
            "caption": pa.array(captions, pa.string()),
            "status": ["damaged_image" if row in damaged else "success" for row in range(count)],
            "sha256": pa.array([f"{row:064x}" for row in range(count)], pa.string()),
            "width": pa.array([64] * count, pa.int32()),
            "height": pa.array([64] * count, pa.int32()),
            "phash": pa.array(random.integers(2**63, size=count), pa.uint64()),
            "dhash": pa.array(random.integers(2**63, size=count), pa.uint64()),
            "thumbnail": pa.array([random.bytes(768) for _ in range(count)], pa.binary(768)),
        }
    )
