"""The annotate step on Ray: every fetched sample, in the corpus' order, from one decode."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from infra.shards import read_tar
from infra.store import Artifact
from pipelines.aligned import (
    MisalignedError,
    encoder_identity,
    read_embeddings,
    read_metadata,
    read_table,
    shard_names,
)
from pipelines.annotate.annotator import Annotator
from pipelines.annotate.chunks import decode_chunk, index_shard
from pipelines.annotate.config import AnnotateConfig
from pipelines.annotate.step import Annotate
from pipelines.encoders.lit import Lit
from tests import annotated


@pytest.fixture(scope="module")
def corpus(tiny_root: Path) -> Artifact:
    return annotated.curation_corpus(tiny_root)


@pytest.fixture(scope="module")
def annotation(tiny_root: Path, corpus: Artifact) -> Artifact:
    return annotated.annotate(tiny_root, corpus)


def test_one_row_per_fetched_sample_in_order(corpus: Artifact, annotation: Artifact) -> None:
    assert shard_names(annotation) == shard_names(corpus)
    for shard in shard_names(corpus):
        rows = [row for row in read_table(corpus, shard).to_pylist() if row["status"] == "success"]
        metadata = read_metadata(annotation, shard)
        assert metadata["key"].to_pylist() == [row["key"] for row in rows]
        assert metadata["caption"].to_pylist() == [row["caption"] for row in rows]
        assert metadata["sha256"].to_pylist() == [row["sha256"] for row in rows]
        assert read_embeddings(annotation, "img", shard).shape == (len(rows), 1280)
        assert read_embeddings(annotation, "text", shard).shape == (len(rows), 384)
    assert encoder_identity(annotation)["name"] == "lit-towers"


def test_values_are_those_of_encoder_and_scorers(corpus: Artifact, annotation: Artifact) -> None:
    """A sample of the last shard, followed by hand from its bytes."""
    sample = list(read_tar(corpus.path / "00002.tar"))[5]
    image = np.asarray(Image.open(io.BytesIO(sample.image)).convert("RGB"))
    encoder = Lit()
    stored = read_embeddings(annotation, "img", "00002")[5]
    np.testing.assert_array_equal(stored, encoder.encode_images([image])[0].astype(np.float16))
    stored = read_embeddings(annotation, "text", "00002")[5]
    np.testing.assert_array_equal(stored, encoder.encode_texts([sample.caption])[0].astype(np.float16))
    metadata = read_metadata(annotation, "00002").to_pylist()
    assert metadata[5]["width"] == metadata[5]["image_width"] == 128
    planted, harmless = metadata[4], metadata[5]
    assert planted["lexicon_violent"] > harmless["lexicon_violent"]
    assert 0 <= harmless["explicit_image"] < 0.5


def test_a_damaged_image_costs_one_row(annotation: Artifact) -> None:
    rows = read_metadata(annotation, "00001").to_pylist()
    damaged = [row for row in rows if row["status"] != "success"]
    assert [(row["key"], row["status"]) for row in damaged] == [
        (annotated.key(annotated.DAMAGED), "damaged_image")
    ]
    assert damaged[0]["explicit_image"] is None and damaged[0]["width"] == 0
    assert not read_embeddings(annotation, "img", "00001")[1].any()
    assert annotation.rows.failed == 1 and annotation.rows.reasons == {"damaged_image": 1}
    assert annotation.rows.total == corpus_samples()


def corpus_samples() -> int:
    return annotated.COUNT - 1


def test_tar_that_lacks_a_sample_is_refused(tmp_path: Path, corpus: Artifact) -> None:
    shutil.copytree(corpus.path, tmp_path / "corpus")
    shutil.copy(corpus.path / "00001.tar", tmp_path / "corpus" / "00000.tar")
    with pytest.raises(MisalignedError, match=f"shard 00000: key 0 is '{annotated.key(8)}'"):
        index_shard(tmp_path / "corpus", "00000")
    (tmp_path / "corpus" / "00000.tar").write_bytes(b"no tar at all")
    with pytest.raises(ValueError, match=r"shard 00000: .* cannot be read"):
        index_shard(tmp_path / "corpus", "00000")


def test_memory_that_runs_out_falls_back(corpus: Artifact) -> None:
    """An encoder that fails above two rows a pass, as a full accelerator does."""
    config = AnnotateConfig(corpus="c", scorers=(), batch=8, fallback_batch=2)
    annotator = Annotator(config)
    encode = annotator.encoder.encode_images

    def limited(images: list[np.ndarray], *, batch: int | None = None) -> np.ndarray:
        if (batch or config.batch) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return encode(images)

    annotator.encoder.encode_images = limited  # type: ignore[method-assign]
    entries = index_shard(corpus.path, "00000")
    chunk = decode_chunk(corpus.path, "00000", entries, 0, 4)
    result = annotator.annotate(chunk)
    assert result.batch == 2
    np.testing.assert_array_equal(
        result.image_embeddings, encode([i for i in chunk.images if i is not None]).astype(np.float16)
    )


def test_empty_chunk_has_all_columns(corpus: Artifact, annotation: Artifact) -> None:
    chunk = decode_chunk(corpus.path, "00000", [], 0, 4)
    result = Annotator(annotated.CONFIG).annotate(chunk)
    assert result.metadata.schema.names == read_metadata(annotation, "00000").schema.names
    assert result.image_embeddings.shape == (0, 1280)


def test_transparency_is_seen_on_white(tmp_path: Path, corpus: Artifact) -> None:
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    (tmp_path / "00000.tar").write_bytes(buffer.getvalue())
    entry = replace(index_shard(corpus.path, "00000")[0], image=(0, buffer.tell()), caption=None, sha256=None)
    chunk = decode_chunk(tmp_path, "00000", [entry], 0, 4)
    assert chunk.images[0] is not None and chunk.images[0].min() == 255
    assert chunk.captions == [""] and len(chunk.sha256[0]) == 64


def test_check_names_every_problem() -> None:
    config = AnnotateConfig(
        corpus="c", encoder="lit", scorers=("explicit_imag", "embedding_similarity", "caption_geometry")
    )
    unknown, spaces = Annotate().check(config)
    assert "did you mean 'explicit_image'" in unknown
    assert "'embedding_similarity' compares image with text" in spaces
    (missing,) = Annotate().check(AnnotateConfig(corpus="c", encoder="open_clip:ViT-B-32//no.pt"))
    assert "no checkpoint at /no.pt" in missing


def test_identity_knows_scorers_and_encoder() -> None:
    one = Annotate().identity(AnnotateConfig(corpus="c", scorers=("caption_geometry",)))
    two = Annotate().identity(AnnotateConfig(corpus="c", scorers=("caption_geometry",), precision="bf16"))
    assert one["scorers"] == {"caption_geometry": {"version": 1}} and one["encoder"] != two["encoder"]
