"""Light classifiers: what is stored computes what was fitted, and the rates are of labels left out."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from filters import classifier_fit
from filters.classifier_fit import fit
from filters.embedding_classifier import Classifier, EmbeddingClassifier, unit_rows
from filters.registry import load_scorer
from filters.scorer import Samples, ScoreError, checked_scores
from filters.weights import WeightsError
from tests.filters.fitted import ENCODER, two_sides, write_classifier

KINDS = ["logistic", "rbf"]


@pytest.mark.parametrize("kind", KINDS)
def test_stored_probabilities_are_scikit_learns(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last model that is fitted is the one that is stored."""
    models: list[Any] = []
    tuned = classifier_fit._tuned

    def remember(*arguments: Any) -> Any:
        models.append(tuned(*arguments))
        return models[-1]

    monkeypatch.setattr(classifier_fit, "_tuned", remember)
    stored = Classifier.from_file(write_classifier(tmp_path / "c.npz", kind))
    embeddings, _ = two_sides(50, seed=1)
    value = models[-1].decision_function(unit_rows(embeddings))
    if kind == "rbf":
        value = stored.arrays["slope"] * value + stored.arrays["offset"]
    assert stored.probability(embeddings) == pytest.approx(1 / (1 + np.exp(-value)), abs=1e-12)


def test_a_file_that_is_no_classifier_is_one_line(tmp_path: Path) -> None:
    array, list_, silent = tmp_path / "array.npy", tmp_path / "list.npz", tmp_path / "silent.npz"
    np.save(array, np.zeros(3))
    np.savez(list_, told=np.array("[1]"))
    whole = Classifier.from_file(write_classifier(tmp_path / "c.npz"))
    silent.write_bytes(Classifier(kind=whole.kind, arrays=whole.arrays, facts={"width": 8}).to_bytes())
    for path in (array, list_, silent):
        with pytest.raises(WeightsError, match=rf"classifier {path}: cannot be read .*`unclip fit`"):
            Classifier.from_file(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_depend_on_the_batch(kind: Any, tmp_path: Path) -> None:
    scorer = load_scorer("embedding_classifier", path=str(write_classifier(tmp_path / "c.npz", kind)))
    embeddings, positive = two_sides(64, seed=2)
    whole = checked_scores(scorer, Samples(keys=[str(i) for i in range(64)], image_embeddings=embeddings))
    alone = [scorer.score(Samples(keys=["0"], image_embeddings=row[None])) for row in embeddings]
    scores = whole["embedding_classifier"]
    assert scores.tolist() == [float(one["embedding_classifier"][0]) for one in alone]
    assert ((scores > 0.5) == positive).mean() > 0.85


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_rates_tell_signal_from_noise(kind: Any) -> None:
    embeddings, positive = two_sides(120)
    told = fit(embeddings, positive, np.arange(120), kind).cross_validation
    assert told.auc > 0.9 and told.auc_95.low < told.auc < told.auc_95.high
    assert told.rates.recall.n == positive.sum() and told.rates.recall.share > 0.7
    areas = []
    for seed in range(8):
        noise = np.random.default_rng(seed + 1000).random(120) < 0.4
        blind = fit(two_sides(120, seed)[0], noise, np.arange(120), kind).cross_validation
        areas.append(blind.auc)
    assert np.mean(areas) == pytest.approx(0.5, abs=0.07)


def test_copies_of_a_sample_never_lie_on_both_sides() -> None:
    """Labels by chance, every sample six times: with a copy in view each could be known by heart."""
    random = np.random.default_rng(6)
    embeddings, positive = random.normal(size=(60, 8)), random.random(60) < 0.5
    groups = np.repeat(np.arange(60), 6)
    told = fit(np.repeat(embeddings, 6, axis=0), np.repeat(positive, 6), groups, "rbf").cross_validation
    assert told.auc < 0.7


def test_too_few_labels_are_refused() -> None:
    embeddings, positive = two_sides(60)
    positive[:] = np.arange(60) < 9
    with pytest.raises(ValueError, match="at least 10 distinct samples labelled positive, got 9"):
        fit(embeddings, positive, np.arange(60))
    positive[:20] = True
    with pytest.raises(ValueError, match="labelled negative, got 1"):
        fit(embeddings, positive, np.where(positive, np.arange(60), 99))  # all the same picture


def test_the_same_labels_make_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_classifier(tmp_path / name).read_bytes() for name in ("a.npz", "b.npz"))
    assert first == second
    scorer = EmbeddingClassifier(str(tmp_path / "a.npz"))
    assert scorer.identity() == EmbeddingClassifier(str(tmp_path / "b.npz")).identity()
    assert scorer.classifier.facts["cross_validation"]["auc"] > 0.9


def test_wrong_files_and_wrong_embeddings_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="needs the file of a classifier"):
        load_scorer("embedding_classifier")
    with pytest.raises(WeightsError, match=r"none.npz: cannot be read .* make it with"):
        load_scorer("embedding_classifier", path=str(tmp_path / "none.npz"))
    hostile = tmp_path / "hostile.npz"
    np.savez(hostile, told=np.array([{"a": 1}], dtype=object))
    with pytest.raises(WeightsError, match="allow_pickle=False"):
        EmbeddingClassifier(str(hostile))
    hostile.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match="cannot be read"):
        EmbeddingClassifier(str(hostile))
    whole = write_classifier(tmp_path / "c.npz")
    scorer = EmbeddingClassifier(str(whole))
    with pytest.raises(ValueError, match=r"expected embeddings of width 8 \(encoder test\), got 5"):
        scorer.score(Samples(keys=["0"], image_embeddings=np.ones((1, 5))))
    with pytest.raises(ScoreError, match="got nan at key '0'"):
        checked_scores(scorer, Samples(keys=["0"], image_embeddings=np.zeros((1, 8))))
    assert scorer.encoder.problem(ENCODER) is None
    assert "got those of other" in str(scorer.encoder.problem({"name": "other"}))
    whole.write_bytes(whole.read_bytes()[:200])
    with pytest.raises(WeightsError, match="cannot be read"):
        EmbeddingClassifier(str(whole))
