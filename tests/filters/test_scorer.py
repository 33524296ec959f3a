"""The contract of scorers, and the registry that finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from filters.fitted_on import FittedOn
from filters.one_pass import combination_problems, score_in_one_pass
from filters.registry import SCORERS, load_scorer
from filters.scorer import (
    SAMPLE_FIELDS,
    CombinesScores,
    ReadsPrompts,
    Samples,
    ScoreError,
    Scorer,
    ScoreSpec,
    checked_scores,
)
from filters.weights import WeightsError
from tests.filters.fitted import write_classifier

OWN_FILES = ("clip_", "gantman_", "nudenet_")
SAMPLES = Samples(keys=["00", "01", "02"], captions=["a", "", "c"])


class Fixed:
    """A scorer that returns what it is told to."""

    name = "fixed"
    version = 1
    needs = frozenset({"captions"})
    specs = (ScoreSpec(name="one", low=0.0, high=1.0, worse="high", description=""),)

    def __init__(self, scores: dict[str, np.ndarray]) -> None:
        self.scores = scores

    def identity(self) -> dict[str, Any]:
        return {}

    def score(self, samples: Samples) -> dict[str, np.ndarray]:  # noqa: ARG002 (the contract's name)
        return self.scores


def f32(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"other": f32(0, 0, 0)}, r"'fixed' returned scores \['other'\], declared \['one'\]"),
        ({"one": f32(0, 0)}, r"'fixed', score 'one': expected float32 \(3,\), got float32 \(2,\)"),
        ({"one": np.zeros(3)}, r"got float64"),
        ({"one": f32(0, np.nan, 2)}, r"'fixed', score 'one': expected \[0.0, 1.0\], got nan at key '01'"),
        ({"one": f32(0, 0.5, -0.1)}, r"at key '02' \(1 of 3"),
    ],
)
def test_broken_contract_is_named(scores: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        checked_scores(Fixed(scores), SAMPLES)


def test_missing_need_is_named() -> None:
    with pytest.raises(ScoreError, match="'fixed' needs captions"):
        checked_scores(Fixed({}), Samples(keys=["00"]))


def test_samples_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"samples.captions has 1 entries, expected 2"):
        Samples(keys=["00", "01"], captions=["a"])
    with pytest.raises(ValueError, match=r"key '00': expected uint8"):
        Samples(keys=["00"], images=[np.zeros((4, 4), dtype=np.uint8)])


def ready_scorer(name: str, folder: Path) -> Scorer:
    """The scorer by name, ready: with prompts where it reads any, with a file where its user fits it.

    Skips those of files or an extra that are not part of every installation; whoever's files a package
    carries must load.
    """
    options = {"path": str(write_classifier(folder / "c.npz"))} if name == "embedding_classifier" else {}
    try:
        scorer = load_scorer(name, **options)
    except WeightsError as error:
        if not name.startswith(OWN_FILES) or "sha256 is" in str(error):
            raise
        pytest.skip(str(error))
    if isinstance(scorer, ReadsPrompts):
        scorer.use_prompts(np.random.default_rng(1).standard_normal((len(scorer.prompts), 8)))
    return scorer


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_every_registered_scorer_keeps_the_contract(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scorer = ready_scorer(name, tmp_path)
    width = scorer.encoder.width if isinstance(scorer, FittedOn) else 8
    reads = scorer.reads if isinstance(scorer, CombinesScores) else ()
    assert isinstance(scorer, Scorer)
    assert scorer.name == name
    assert scorer.needs <= SAMPLE_FIELDS
    samples = Samples(
        keys=["00", "01"],
        images=[rng.integers(0, 256, (20, 31, 3), dtype=np.uint8) for _ in range(2)],
        captions=["a red house", ""],
        image_embeddings=rng.standard_normal((2, width)),
        text_embeddings=rng.standard_normal((2, width)),
        scores={read: f32(0.25, 0.75) for read in reads},
    )
    scores = checked_scores(scorer, samples)
    assert list(scores) == [spec.name for spec in scorer.specs]
    nothing = Samples(
        keys=[],
        images=[],
        captions=[],
        image_embeddings=np.zeros((0, width)),
        text_embeddings=np.zeros((0, width)),
        scores={read: f32() for read in reads},
    )
    assert all(len(values) == 0 for values in checked_scores(scorer, nothing).values())


def test_scores_of_different_scorers_never_share_a_name(tmp_path: Path) -> None:
    # Those that need files of one's own, or the extra, call their scores as they are called.
    here = [name for name in SCORERS if not name.startswith(OWN_FILES)]
    names = [spec.name for name in here for spec in ready_scorer(name, tmp_path).specs]
    assert len(names) == len(set(names))


class Sum:
    """Combines the score of `Fixed` with a constant."""

    name = "sum"
    version = 1
    needs = frozenset({"scores"})
    specs = (ScoreSpec(name="two", low=0.0, high=2.0, worse="high", description=""),)
    reads = ("one",)

    def identity(self) -> dict[str, Any]:
        return {}

    def score(self, samples: Samples) -> dict[str, np.ndarray]:
        assert samples.scores is not None and samples.captions is None, "only what it needs"
        return {"two": samples.scores["one"] + f32(1)}


def test_combinations_run_last_and_see_what_they_read() -> None:
    scorers = [Sum(), Fixed({"one": f32(0, 0.5, 1)})]
    scores = score_in_one_pass(scorers, SAMPLES)
    assert list(scores) == ["one", "two"]
    assert scores["two"].tolist() == [1, 1.5, 2]
    assert combination_problems(scorers) == []


def test_combination_of_a_score_that_nobody_makes_is_told() -> None:
    (problem,) = combination_problems([Sum()])
    assert problem == "scorer 'sum' combines score 'one', which no other scorer makes; made are: none"
    with pytest.raises(ScoreError, match="Sum combines one, which no scorer has made"):
        score_in_one_pass([Sum()], SAMPLES)
    with pytest.raises(ValueError, match=r"samples.scores\['one'\] has 1 entries, expected 3"):
        Samples(keys=SAMPLES.keys, scores={"one": f32(0)})


def test_unknown_scorer_and_option_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        ValueError, match=r"unknown scorer 'toxic_captions'; known: .*did you mean 'toxic_caption'"
    ):
        load_scorer("toxic_captions")
    with pytest.raises(ValueError, match=r"no option 'thread'; allowed: .*did you mean 'threads'"):
        load_scorer("explicit_image", thread=2)


def test_geometry_and_similarity_by_hand() -> None:
    samples = Samples(
        keys=["0", "1"],
        images=[np.zeros((10, 40, 3), np.uint8), np.zeros((7, 7, 3), np.uint8)],
        captions=["  cafe\u0301 au lait ", ""],
        image_embeddings=np.array([[3.0, 4.0], [1.0, 0.0]]),
        text_embeddings=np.array([[6.0, 8.0], [0.0, 2.0]]),
    )
    image = checked_scores(load_scorer("image_geometry"), samples)
    assert image["image_min_side"].tolist() == [10, 7]
    assert image["image_aspect"].tolist() == [4, 1]
    caption = checked_scores(load_scorer("caption_geometry"), samples)
    assert caption["caption_length"].tolist() == [12, 0]
    assert caption["caption_words"].tolist() == [3, 0]
    cosine = checked_scores(load_scorer("embedding_similarity"), samples)
    assert cosine["image_text_cosine"].tolist() == [1, 0]


def test_zero_embedding_is_refused_by_key() -> None:
    samples = Samples(
        keys=["0", "1"], image_embeddings=np.array([[1.0, 0.0], [0.0, 0.0]]), text_embeddings=np.ones((2, 2))
    )
    with pytest.raises(ScoreError, match="at key '1'"):
        checked_scores(load_scorer("embedding_similarity"), samples)
