"""Concepts by prompts: the arithmetic by hand, the file's form, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from filters.scorer import Samples, checked_scores
from filters.zero_shot_concepts import OVER_THRESHOLD, ZeroShotConcepts

FILE = """
schema_version: 1
logit_scale: 2
neutral: [anything]
concepts:
  heart: {prompts: [a red heart, a blue heart], threshold: 0.6}
  star: {prompts: [a star], threshold: 0.3}
"""
# anything, red heart, blue heart, star
PROMPTS = np.array([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0], [0, 1.0, 1.0]])


def scorer_of(tmp_path: Path, text: str = FILE) -> ZeroShotConcepts:
    path = tmp_path / "concepts.yaml"
    path.write_text(text)
    return ZeroShotConcepts(concepts=path)


def test_softmax_against_the_neutral_prompts(tmp_path: Path) -> None:
    scorer = scorer_of(tmp_path)
    assert scorer.prompts == ("anything", "a red heart", "a blue heart", "a star")
    scorer.use_prompts(PROMPTS)
    samples = Samples(keys=["0", "1"], image_embeddings=np.array([[0.0, 5.0, 0.0], [1.0, 0.0, 0.0]]))
    scores = checked_scores(scorer, samples)
    e, cosine = np.exp, np.sqrt(0.5)
    # Cosines of the first image: neutral 0, red heart 1, blue heart 0, star 0.71; of the second: 1, 0, 0, 0.
    heart = [(e(2) + 1) / (e(2) + 2), 2 / (e(2) + 2)]
    star = [e(2 * cosine) / (e(2 * cosine) + 1), 1 / (e(2) + 1)]
    np.testing.assert_allclose(scores["concept_heart"], heart, rtol=1e-6)
    np.testing.assert_allclose(scores["concept_star"], star, rtol=1e-6)
    expected = np.maximum(np.array(heart) - 0.6, np.array(star) - 0.3)
    np.testing.assert_allclose(scores[OVER_THRESHOLD], expected, rtol=1e-5)


def test_adding_a_concept_moves_no_other(tmp_path: Path) -> None:
    more = scorer_of(tmp_path, FILE + "  moon: {prompts: [a moon], threshold: 0.5}\n")
    less = scorer_of(tmp_path)
    less.use_prompts(PROMPTS)
    more.use_prompts(np.concatenate([PROMPTS, [[0.3, 0.9, 0.1]]]))
    samples = Samples(keys=["0"], image_embeddings=np.array([[0.2, 0.5, 0.1]]))
    before, after = checked_scores(less, samples), checked_scores(more, samples)
    assert all(before[name] == after[name] for name in ("concept_heart", "concept_star"))
    assert less.identity() != more.identity()


def test_the_default_file_is_complete() -> None:
    names = [spec.name for spec in ZeroShotConcepts().specs]
    assert {"concept_hate_symbols", "concept_weapons", "concept_bath", OVER_THRESHOLD} <= set(names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE.replace("threshold: 0.3", "treshold: 0.3"), r"concepts.star.threshold: Field required"),
        (FILE.replace("0.6", "60"), r"concepts.heart.threshold: Input should be less than 1"),
        (FILE.replace("star:", "A star:"), r"'A star' is no name for a concept"),
        (FILE.replace("[anything]", "[]"), r"neutral: .*at least 1 item"),
        ("a: [", r"cannot be read as a concept file"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"concepts.yaml: .*{message}"):
        scorer_of(tmp_path, text)


def test_embeddings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    scorer = scorer_of(tmp_path)
    samples = Samples(keys=["0"], image_embeddings=np.ones((1, 4)))
    with pytest.raises(ValueError, match="its prompts were not embedded"):
        checked_scores(scorer, samples)
    with pytest.raises(ValueError, match="expected 4 prompts, got 3"):
        scorer.use_prompts(PROMPTS[:3])
    scorer.use_prompts(PROMPTS)
    with pytest.raises(ValueError, match=r"expected image embeddings of width 3.*got 4; take an encoder"):
        checked_scores(scorer, samples)
