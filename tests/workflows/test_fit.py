"""`unclip fit`: from labels of a root to a file that is a scorer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from filters.labels import Label, labels_csv
from filters.registry import load_scorer
from filters.scorer import Samples, checked_scores
from infra.store import Artifact
from pipelines.aligned import encoder_identity, read_embeddings
from tests.scored import WIDTH, keys_of, positive, scored_annotation
from tests.tiny import tiny_corpus
from workflows.cli.main import run_cli


@pytest.fixture(scope="module")
def annotation(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("fit")
    return scored_annotation(folder, tiny_corpus(folder))


def write_labels(path: Path, keys: list[str]) -> Path:
    path.write_text(labels_csv(Label(key, "violent", positive(row)) for row, key in enumerate(keys)))
    return path


@pytest.mark.parametrize("model", ["logistic", "rbf"])
def test_labels_become_a_scorer(
    annotation: Artifact, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, out = write_labels(tmp_path / "labels.csv", keys_of(annotation)), tmp_path / "violent.npz"
    command = ["fit", "--root", str(annotation.path.parents[2]), "--labels", str(labels), "--out", str(out)]
    assert run_cli([*command, "--model", model, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["positives"], facts["negatives"], facts["width"]) == (12, 24, WIDTH)
    assert facts["encoder"] == encoder_identity(annotation)
    low, high = facts["cross_validation"]["auc_95"]
    assert low < facts["cross_validation"]["auc"] == high == 1.0  # two clouds far apart, but few
    first = out.read_bytes()
    assert run_cli([*command, "--model", model]) == 0
    assert out.read_bytes() == first
    assert "held-out recall at .5: 12 of 12 (1.000, 0.758 to 1.000)" in capsys.readouterr().out

    scorer = load_scorer("embedding_classifier", path=str(out))
    vectors = np.concatenate(
        [read_embeddings(annotation, "img", record.name) for record in annotation.shards]
    )
    scores = checked_scores(scorer, Samples(keys=keys_of(annotation), image_embeddings=vectors))
    truth = [positive(row) for row in range(len(vectors))]
    assert (scores["embedding_classifier"] > 0.5).tolist() == truth


def test_too_few_labels_are_one_line(
    annotation: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_labels(tmp_path / "labels.csv", keys_of(annotation)[:20])
    command = ["fit", "--root", str(annotation.path.parents[2]), "--labels", str(labels)]
    assert run_cli([*command, "--out", str(tmp_path / "c.npz")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "at least 10 distinct samples labelled positive, got 7; label more" in line
    assert not (tmp_path / "c.npz").exists()
