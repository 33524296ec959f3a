"""Published heads on CLIP embeddings: TensorFlow's own numbers, decisions by hand, and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from filters import clip_aesthetic, clip_prompt_pair
from filters.clip_explicit import ClipExplicit, KerasHead
from filters.fitted_on import CLIP_MODELS, VIT_B_32, VIT_L_14
from filters.registry import load_scorer
from filters.scorer import Samples, ScoreError, checked_scores
from filters.tensor_bundle import BundleError, read_saved_model
from filters.weights import WEIGHTS_FOLDER, WeightsError, released_file
from tests.filters.released import needs_released_weights

HEADS = ("clip_aesthetic", "clip_explicit", "clip_q16", "clip_violence")

# What TensorFlow 2.21 makes of `unit_rows` below: serving_default of LAION's SavedModels, float32.
TENSORFLOW = {
    "vit_l_14": [
        2.561458386480808e-04,
        7.925590872764587e-02,
        3.754592835903168e-01,
        1.526699052192271e-04,
        5.217497237026691e-03,
        3.414380216781865e-06,
    ],
    "vit_b_32": [
        1.129990678805370e-08,
        5.515254572485695e-11,
        1.895806053653359e-05,
        9.904484152793884e-01,
        1.454271814082806e-09,
        3.968227247241884e-06,
    ],
}


def unit_rows(width: int, count: int = 6) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def samples_of(rows: np.ndarray) -> Samples:
    return Samples(keys=[str(i) for i in range(len(rows))], image_embeddings=rows)


@needs_released_weights
@pytest.mark.parametrize("model", sorted(TENSORFLOW))
def test_explicit_head_equals_tensorflow(model: str) -> None:
    """To float32's rounding.  A column that AutoKeras took for a category is blind there and must be here."""
    rows = unit_rows(CLIP_MODELS[model].width)
    scores = checked_scores(load_scorer("clip_explicit", model=model), samples_of(rows))["clip_explicit"]
    np.testing.assert_allclose(scores, TENSORFLOW[model], rtol=2e-5)


@needs_released_weights
@pytest.mark.parametrize(
    ("model", "blind"), [("vit_l_14", [180, 316, 413, 440, 644]), ("vit_b_32", [92, 133, 312])]
)
def test_blind_inputs_move_no_score(model: str, blind: list[int]) -> None:
    head = ClipExplicit(model=model).network
    assert head.blind == blind
    rows = unit_rows(CLIP_MODELS[model].width)
    moved = rows.copy()
    moved[:, blind] += 1
    assert np.array_equal(head(rows), head(moved))
    moved[:, 0] += 1
    assert not np.array_equal(head(rows), head(moved))


@needs_released_weights
@pytest.mark.parametrize("model", sorted(CLIP_MODELS))
@pytest.mark.parametrize("family", sorted(clip_prompt_pair.RELEASES))
def test_prompt_pair_decides_by_the_nearer_point(family: str, model: str) -> None:
    """Both projects take the arg-max of two cosines; 0.5 is where it turns over."""
    prompts = np.load(released_file(None, *clip_prompt_pair.RELEASES[family][model])).astype(np.float64)
    rows = np.concatenate([unit_rows(prompts.shape[1], 40), prompts])
    scorer = load_scorer(f"clip_{family}", model=model)
    scores = checked_scores(scorer, samples_of(rows))[f"clip_{family}"]
    cosines = rows @ (prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).T
    assert ((scores > 0.5) == (cosines.argmax(axis=1) == 1)).all()
    assert scores[-2] < 0.5 < scores[-1]


@needs_released_weights
@pytest.mark.parametrize("model", sorted(CLIP_MODELS))
def test_aesthetic_head_is_the_linear_layer(model: str) -> None:
    rows = unit_rows(CLIP_MODELS[model].width)
    layer = torch.nn.Linear(rows.shape[1], 1)
    path = released_file(None, *clip_aesthetic.RELEASES[model])
    layer.load_state_dict(torch.load(path, weights_only=True))
    expected = layer(torch.from_numpy(rows).float())[:, 0].detach().numpy()
    # Any length of vector: embeddings are normalised first.
    scores = checked_scores(load_scorer("clip_aesthetic", model=model), samples_of(3 * rows))
    np.testing.assert_allclose(scores["clip_aesthetic"], expected, rtol=1e-5)


@needs_released_weights
@pytest.mark.parametrize("name", HEADS)
def test_another_width_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"'{name}': expected .*ViT-L-14-quickgelu/openai \(width 768\), got shape \(6, 512\)",
    ):
        load_scorer(name).score(samples_of(unit_rows(512)))
    with pytest.raises(ScoreError, match="at key '1'"):
        checked_scores(load_scorer(name), samples_of(unit_rows(768, 2) * [[1], [0]]))


@needs_released_weights
@pytest.mark.parametrize("name", HEADS)
def test_score_does_not_depend_on_the_batch(name: str) -> None:
    rows, scorer = unit_rows(768, 50), load_scorer(name)
    (together,) = checked_scores(scorer, samples_of(rows)).values()
    alone = [next(iter(checked_scores(scorer, samples_of(rows[i : i + 1])).values()))[0] for i in range(50)]
    assert np.array_equal(together, alone)


def test_encoders_are_told_apart() -> None:
    def facts(name: str, **weights: str) -> dict[str, object]:
        return {"name": name, "weights": weights}

    assert VIT_L_14.problem(facts("open_clip:ViT-L-14-quickgelu", pretrained="openai")) is None
    assert VIT_L_14.problem(facts("open_clip:ViT-L-14", sha256="0")) is None
    wrong = VIT_L_14.problem(facts("open_clip:ViT-L-14", pretrained="laion2b_s32b_b82k"))
    assert wrong is not None and "expected embeddings of open_clip:ViT-L-14-quickgelu/openai" in wrong
    assert "got those of open_clip:ViT-L-14/laion2b_s32b_b82k" in wrong
    assert "got those of lit-towers" in str(VIT_B_32.problem(facts("lit-towers")))
    with pytest.raises(ValueError, match="'clip_q16': expected model vit_l_14 or vit_b_32, got 'vit_h_14'"):
        load_scorer("clip_q16", model="vit_h_14")


@pytest.mark.parametrize("name", HEADS)
def test_missing_and_changed_weights_are_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    with pytest.raises(
        WeightsError, match=r"no path given and UNCLIP_WEIGHTS not set; get it from https://.*sha256"
    ):
        load_scorer(name)
    with pytest.raises(WeightsError, match=r"no file .*elsewhere; get it"):
        load_scorer(name, weights=tmp_path / "elsewhere")
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"other: sha256 is"):
        load_scorer(name, weights=tmp_path / "other")


def test_what_is_no_saved_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(b"no zip")
    with pytest.raises(BundleError, match=r"model.zip: expected a zipped SavedModel"):
        read_saved_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/variables/variables.index", b"x" * 60)
        archive.writestr("m/variables/variables.data-00000-of-00001", b"")
    with pytest.raises(BundleError, match="the index is no LevelDB table"):
        read_saved_model(path)


def test_head_by_hand() -> None:
    """(4 - 2) / 1 and a blind input, through one hidden unit and the sigmoid."""
    layers = [(np.array([[1.0], [7.0]]), np.array([-1.0])), (np.array([[2.0]]), np.array([0.0]))]
    head = KerasHead(np.array([2.0, 0.0]), np.array([1.0, 1.0]), layers, blind=[1])
    # hidden: max(1 * 2 + 7 * 0 - 1, 0) = 1; logit 2.
    np.testing.assert_allclose(head(np.array([[4.0, 99.0]])), [1 / (1 + np.exp(-2))])
