"""The step as a whole, on a tiny cascade of random weights and a real encoder."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from infra.store import Artifact
from models.sampling import StageSampling
from pipelines.cascade_io import CascadeError
from pipelines.evaluate.bench import Bench
from pipelines.evaluate.step import Evaluate
from tests.pipelines.conftest import CONFIG, run_evaluate
from tests.tiny_cascade import DECODER, EPSILON, tiny_stage

EXPECTED = {
    "prior": ["cosine_posterior_mean", "cosine_ridge", "cosine_shuffled_captions", "loss_trained"],
    "decoder": ["loss_trained", "loss_below_untrained_in_standard_errors"],
    "upsampler_32": ["psnr_db", "psnr_db_bicubic", "psnr_db_gain", "ssim", "loss_trained"],
    "upsampler_64": ["psnr_db", "loss_below_constant_in_standard_errors"],
    "cascade": ["kid_generated", "kid_floor", "kid_blur", "cmmd_noise", "score_generated", "score_real"],
}


@pytest.fixture(scope="module")
def sections(evaluation: Artifact) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((evaluation.path / "evaluation.json").read_bytes())
    return data["sections"]


def test_every_stage_is_measured_with_interval_and_count(sections: dict[str, Any]) -> None:
    for section, names in EXPECTED.items():
        for name in names:
            figure = sections[section][name]
            assert figure["low"] <= figure["value"] <= figure["high"], (section, name)
            assert figure["n"] >= 4 and figure["what"], (section, name)


def test_the_summary_is_every_figure(evaluation: Artifact, sections: dict[str, Any]) -> None:
    for section, figures in sections.items():
        for name, figure in figures.items():
            assert evaluation.summary[f"{section}_{name}"] == figure["value"]


def test_random_weights_look_like_random_weights(sections: dict[str, Any]) -> None:
    """Nothing about this cascade is good, and the figures say so."""
    prior = sections["prior"]
    assert prior["cosine_posterior_mean"]["value"] < prior["cosine_mean_image_embedding"]["value"]
    cascade = sections["cascade"]
    assert cascade["kid_generated"]["value"] > cascade["kid_floor"]["high"]
    assert cascade["score_own_minus_shuffled"]["low"] < 0 < cascade["score_own_minus_shuffled"]["high"]


def test_the_page_is_self_contained_and_carries_the_attribution(evaluation: Artifact) -> None:
    page = (evaluation.path / "evaluation.html").read_text()
    assert "OpenMoji, CC BY-SA 4.0" in page
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page
    for name in ("grid.png", "overview.png", "upsampler_32.png", "upsampler_64.png"):
        assert (evaluation.path / name).read_bytes()[:4] == b"\x89PNG"


def test_the_same_again_is_the_same_bytes(
    tmp_path: Path, stages: dict[str, Artifact], verdict: Artifact, evaluation: Artifact
) -> None:
    again = Artifact.open(run_evaluate(tmp_path, "again", stages | {"verdict": verdict}).path)
    assert again.content == evaluation.content


def test_stages_that_do_not_fit_are_refused(
    tmp_path: Path, stages: dict[str, Artifact], verdict: Artifact
) -> None:
    swapped = stages | {"verdict": verdict, "prior": stages["decoder"]}
    with pytest.raises(
        CascadeError, match="expected a network of PriorConfig or ARPriorConfig, got DecoderConfig"
    ):
        Bench.open(CONFIG, swapped, tmp_path)
    skipped = stages | {"verdict": verdict, "upsampler_256": stages["upsampler_1024"]}
    del skipped["upsampler_1024"]
    with pytest.raises(CascadeError, match="expects 32 px, the stage before it makes 16 px"):
        Bench.open(CONFIG, skipped, tmp_path)


def test_another_encoder_is_refused(
    tmp_path: Path, stages: dict[str, Artifact], verdict: Artifact, annotation: Artifact
) -> None:
    inputs = stages | {"verdict": verdict}
    with pytest.raises(CascadeError, match="were made by 'tiny', not by encoder 'lit'"):
        Bench.open(CONFIG, inputs | {"embeddings": annotation}, tmp_path)
    foreign = tiny_stage(tmp_path, "decoder", DECODER, EPSILON, {"name": "another"})
    with pytest.raises(CascadeError, match="trained on embeddings of another encoder"):
        Bench.open(CONFIG, inputs | {"decoder": foreign}, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": StageSampling(steps=51)}, r"sampling\.decoder\.steps: .* but 50 steps"),
        ({"prior": StageSampling(steps="ddim49")}, r"sampling\.prior\.steps: .*no integer stride"),
        ({"upsamplers": (StageSampling(steps=2, guidance=2.0),) * 2}, r"upsamplers\[0\].*reads no text"),
        ({"upsamplers": (StageSampling(steps=2, noise_level=0.2),) * 2}, r"not trained with noise"),
        ({"upsamplers": (StageSampling(steps=2), StageSampling(steps="30,30"))}, r"upsamplers\[1\]\.steps"),
    ],
)
def test_sampling_that_the_stages_do_not_take_is_refused_before_the_evaluation(
    stages: dict[str, Artifact], changes: dict[str, Any], message: str
) -> None:
    sampling = dataclasses.replace(CONFIG.sampling, **changes)
    (problem,) = Evaluate().check_inputs(CONFIG.model_copy(update={"sampling": sampling}), stages)
    assert re.search(message, problem), problem


def test_stages_that_make_no_cascade_are_refused_before_the_evaluation(stages: dict[str, Artifact]) -> None:
    (problem,) = Evaluate().check_inputs(CONFIG, stages | {"prior": stages["decoder"]})
    assert "expected a network of PriorConfig or ARPriorConfig, got DecoderConfig" in problem


@pytest.mark.parametrize("steps", ["abc", 0, -5, "ddim", "10,,3", "10,0", "ddim5,5", float("nan")])
def test_a_recipe_whose_steps_are_no_steps_does_not_load(steps: object) -> None:
    with pytest.raises(ValidationError, match="sampling"):
        type(CONFIG)(**{**CONFIG.model_dump(), "sampling": {"decoder": {"steps": steps}}})


def test_check_sees_missing_sampling_and_empty_prompts() -> None:
    config = CONFIG.model_copy(
        update={
            "prompts": ("a cat", " "),
            "upsampler_256": "-",
            "sampling": type(CONFIG.sampling)(upsamplers=()),
        }
    )
    problems = Evaluate().check(config)
    assert any("prompts[1]" in p for p in problems)
    assert any("0 settings for 1 upsamplers" in p for p in problems)
