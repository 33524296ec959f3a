"""Image and caption together: benign pairs at score level, and who counts as a caption's subject."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from filters.pair_context import PairContext
from filters.registry import load_scorer
from filters.scorer import Samples, ScoreError, checked_scores

SHOWER = {"concept_bath": 0.95, "concept_bed": 0.05, "concept_underwear": 0.02}
BED = {"concept_bath": 0.1, "concept_bed": 0.9, "concept_underwear": 0.1}
SHOP = {"concept_bath": 0.0, "concept_bed": 0.1, "concept_underwear": 0.97}
BEACH_BALL = {"concept_bath": 0.02, "concept_bed": 0.01, "concept_underwear": 0.05}


@pytest.fixture(scope="module")
def scorer() -> PairContext:
    return PairContext()


def score(scorer: PairContext, image: dict[str, float], caption: str) -> float:
    scores = {name: np.array([value], np.float32) for name, value in image.items()}
    samples = Samples(keys=["0"], captions=[caption], scores=scores)
    return float(checked_scores(scorer, samples)["explicit_context"][0])


@pytest.mark.parametrize(
    ("image", "caption", "high"),
    [
        (SHOWER, "a woman", True),
        (SHOWER, "two girls smiling", True),
        (BED, "my girlfriend on Sunday morning", True),
        (SHOP, "a man", True),
        # The same picture, and nobody in the caption.
        (SHOWER, "a plumber's tool", False),
        (SHOWER, "a rain shower head in chrome", False),
        (BED, "king size bed in oak", False),
        (SHOP, "cotton, 3 pieces, for men", False),
        # The same caption, and nothing intimate in the picture.
        (BEACH_BALL, "a woman", False),
        (BEACH_BALL, "two girls smiling", False),
    ],
)
def test_both_halves_must_be_there(
    scorer: PairContext, image: dict[str, float], caption: str, high: bool
) -> None:
    value = score(scorer, image, caption)
    assert value > 0.8 if high else value < 0.1


@pytest.mark.parametrize(
    ("caption", "person"),
    [
        ("a woman", 1.0),
        ("a W0MAN", 1.0),
        ("a w\u200boman", 1.0),
        ("men at work", 0.0),
        ("a woman beside a sign that says men at work", 1.0),
        ("a dancer", 0.5),
        ("a woman's hat", 0.0),
        ("soap for women", 0.0),
        ("a manhole cover in Manchester", 0.0),
        ("iron man figure", 0.0),
        ("baby shower decoration", 0.0),
        ("", 0.0),
    ],
)
def test_subjects(scorer: PairContext, caption: str, person: float) -> None:
    assert scorer.persons([caption])[0] == person


def test_contexts_are_a_setting() -> None:
    """Without a CLIP encoder any other score of the picture serves."""
    scorer = load_scorer("pair_context", contexts=["explicit_image"])
    samples = Samples(
        keys=["0", "1"], captions=["a woman", "a chair"], scores={"explicit_image": np.array([0.5, 0.5])}
    )
    assert checked_scores(scorer, samples)["explicit_context"].tolist() == [0.5, 0]
    assert scorer.identity() != PairContext().identity()
    with pytest.raises(ValueError, match="expected contexts to be a list of scores, got 'explicit_image'"):
        load_scorer("pair_context", contexts="explicit_image")


def test_a_context_out_of_range_is_refused() -> None:
    scorer = load_scorer("pair_context", contexts=["image_width"])
    samples = Samples(keys=["0"], captions=["a woman"], scores={"image_width": np.array([640.0])})
    with pytest.raises(ValueError, match=r"expected contexts in \[0, 1\], got 640"):
        checked_scores(scorer, samples)
    with pytest.raises(ScoreError, match="'pair_context' needs scores"):
        checked_scores(scorer, Samples(keys=["0"], captions=["a woman"]))


def test_subjects_are_a_file(tmp_path: Path) -> None:
    path = tmp_path / "subjects.yaml"
    path.write_text("schema_version: 1\ncategory: person\nphrases: {1.0: [teapot]}\n")
    scorer = PairContext(subjects=path)
    assert scorer.persons(["a woman", "a teapot"]).tolist() == [0, 1]
    path.write_text("schema_version: 1\ncategory: person\nphrase: {1.0: [teapot]}\n")
    with pytest.raises(ValueError, match=r"subjects.yaml: not a phrase list"):
        PairContext(subjects=path)
