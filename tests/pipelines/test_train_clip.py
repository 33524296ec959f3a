"""Heads learn pairs whose two sides share a latent vector, are held to the test split, and embed shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from infra.journal import Journal
from infra.store import Artifact
from models.config import ClipHeadsConfig
from pipelines.aligned import MisalignedError, encoder_identity, read_embeddings, read_metadata, shard_names
from pipelines.embed import Embed, EmbedConfig, EncoderMismatchError
from pipelines.encoders.lit import load_heads
from pipelines.train_clip import (
    Features,
    TrainClip,
    TrainClipConfig,
    fit_heads,
    read_features,
    retrieval,
)
from tests import annotated
from tests.small_crawl import run_step
from tests.tiny import tiny_corpus, tiny_verdict

CONFIG = TrainClipConfig(annotation="a", verdict="v", dim=16, steps=60, batch=64, dropout=0.1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clip")


@pytest.fixture(scope="module")
def corpus(root: Path) -> Artifact:
    return tiny_corpus(root, count=100, size=16)


@pytest.fixture(scope="module")
def verdict(root: Path, corpus: Artifact) -> Artifact:
    return tiny_verdict(root, corpus)


@pytest.fixture(scope="module")
def annotation(root: Path, corpus: Artifact) -> Artifact:
    return annotated.paired_annotation(root, corpus)


@pytest.fixture(scope="module")
def heads(root: Path, annotation: Artifact, verdict: Artifact) -> Artifact:
    return run_step(root, TrainClip(), CONFIG, {"annotation": annotation, "verdict": verdict})


def test_held_out_pairs_find_each_other(heads: Artifact) -> None:
    figures = heads.summary
    assert (figures["pairs_train"], figures["pairs_validation"], figures["test_pairs"]) == (60, 10, 20)
    assert figures["chance_recall_at_5"] == 0.25
    assert figures["text_to_image_recall_at_5"] > 0.8 < figures["image_to_text_recall_at_5"]
    assert figures["cosine_matched"] > figures["cosine_random"] + 0.4


def test_unseen_splits_do_not_touch_the_weights(
    annotation: Artifact, verdict: Artifact, tmp_path: Path
) -> None:
    features = read_features(annotation, verdict)
    random = np.random.default_rng(1)
    shuffled = features | {
        "test": Features(image=random.normal(size=(5, 24)).astype(np.float32), text=features["test"].text[:5])
    }
    before = torch.get_rng_state()
    one, _ = fit_heads(features, CONFIG, Journal(tmp_path / "1"))
    two, _ = fit_heads(shuffled, CONFIG, Journal(tmp_path / "2"))
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )
    assert torch.equal(before, torch.get_rng_state())
    losses = [event["values"]["validation_loss"] for event in Journal(tmp_path / "1").events()]
    assert len(losses) == 6 and min(losses) < losses[0]


def test_recall_by_hand() -> None:
    """Identity heads on four directions: pair 2 is swapped with pair 3, so two of four are found first."""
    heads = ClipHeadsConfig(image_dim=4, text_dim=4, dim=4, dropout=0.0).build().eval()
    with torch.no_grad():
        for head in (heads.image_head, heads.text_head):
            head[-1].weight.copy_(torch.eye(4))
    eye = np.eye(4, dtype=np.float32)
    figures = retrieval(heads, Features(image=eye, text=eye[[0, 1, 3, 2]]))
    assert figures["text_to_image_recall_at_1"] == 0.5
    assert figures["text_to_image_recall_at_5"] == figures["chance_recall_at_5"] == 1.0
    same = retrieval(heads, Features(image=eye[[0, 0]], text=eye[[0, 0]]))
    assert same["text_to_image_recall_at_1"] == 0.0  # ties count against the encoder


def test_verdict_of_another_corpus_is_refused(root: Path, annotation: Artifact, verdict: Artifact) -> None:
    other = tiny_verdict(root, tiny_corpus(root, count=50, size=16))
    with pytest.raises(MisalignedError, match="annotation has 10 shards and verdict 5"):
        read_features(annotation, other)
    trimmed = annotated.paired_annotation(root, _without_first_row(root, 100), seed=3)
    with pytest.raises(MisalignedError, match=r"among the kept samples, shard 00000: key 0 is '000001'"):
        read_features(trimmed, verdict)


def _without_first_row(root: Path, count: int) -> Artifact:
    """The corpus in the words of a Parquet that calls its first row failed."""
    source = tiny_corpus(root, count=count, size=16)
    path = root / "trimmed"
    shutil.copytree(source.path, path, dirs_exist_ok=True)
    rows = pq.read_table(path / "00000.parquet").to_pylist()
    rows[0]["status"] = "gone"
    pq.write_table(pa.Table.from_pylist(rows), path / "00000.parquet")
    return Artifact(path=path, manifest=source.manifest | {"content": "trimmed"})


def test_embeddings_are_the_heads_output(root: Path, annotation: Artifact, heads: Artifact) -> None:
    config = EmbedConfig(annotation="a", clip_heads="h")
    embeddings = run_step(root, Embed(), config, {"annotation": annotation, "clip_heads": heads})
    assert shard_names(embeddings) == shard_names(annotation)
    network = load_heads(heads.path)
    for which, encode in (("img", network.encode_image), ("text", network.encode_text)):
        features = torch.from_numpy(read_embeddings(annotation, which, "00003").astype(np.float32))  # type: ignore[arg-type]
        with torch.inference_mode():
            expected = encode(features).numpy()
        stored = read_embeddings(embeddings, which, "00003")  # type: ignore[arg-type]
        np.testing.assert_allclose(stored, expected, atol=1e-3)
    keys = read_metadata(annotation, "00003")["key"]
    assert read_metadata(embeddings, "00003")["key"].to_pylist() == keys.to_pylist()
    assert encoder_identity(embeddings)["weights"]["heads"]


def test_heads_of_other_features_are_refused(
    root: Path, annotation: Artifact, heads: Artifact, tmp_path: Path
) -> None:
    shutil.copytree(heads.path, tmp_path / "heads")
    (tmp_path / "heads" / "encoder.json").write_text(json.dumps({"name": "another", "precision": "fp32"}))
    foreign = Artifact(path=tmp_path / "heads", manifest=heads.manifest | {"content": "another"})
    with pytest.raises(EncoderMismatchError, match="fit heads on this annotation"):
        run_step(
            root,
            Embed(),
            EmbedConfig(annotation="a", clip_heads="h"),
            {"annotation": annotation, "clip_heads": foreign},
        )
