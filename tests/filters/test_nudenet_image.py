"""NudeNet on harmless photographs; the package is an extra, so these tests seldom run."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from filters.registry import load_scorer
from filters.scorer import Samples, checked_scores
from filters.weights import WeightsError

INSTALLED = importlib.util.find_spec("nudenet") is not None


@pytest.mark.skipif(INSTALLED, reason="nudenet is installed")
def test_absent_package_is_told() -> None:
    with pytest.raises(WeightsError, match=r"AGPL-3.0 and an extra: install unclip\[nudenet\]"):
        load_scorer("nudenet_image")


@pytest.mark.skipif(not INSTALLED, reason="nudenet (AGPL-3.0) is an extra and not installed")
def test_harmless_photographs_score_low_alone_and_together() -> None:
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    images = [china, flower, china[:300, :100]]
    scorer = load_scorer("nudenet_image")
    scores = checked_scores(scorer, Samples(keys=["0", "1", "2"], images=images))["nudenet_exposed"]
    assert (scores < 0.3).all()
    for i, image in enumerate(images):
        alone = checked_scores(scorer, Samples(keys=["0"], images=[image]))["nudenet_exposed"]
        assert np.array_equal(alone, scores[i : i + 1])
