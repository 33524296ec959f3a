"""Fine-tuning from a trained stage, for inpainting and as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from infra.store import Artifact, Rows, finish
from models.inpainting import STEM
from pipelines.train import launch
from pipelines.train.job import TrainJob
from pipelines.train.loop import build_network, train
from pipelines.train.steps import TrainDecoder, TrainStep, TrainUpsampler
from tests.pipelines.train.fixtures import Tiny
from tests.pipelines.train.test_steps import DECODER, UPSAMPLER, _context


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(job: TrainJob, **_: Any) -> None:
        train(job)

    monkeypatch.setattr(launch, "fit", fit)


def _trained(
    step: TrainStep[Any], config: dict[str, Any], tiny: Tiny, root: Path, **initial: Artifact
) -> Artifact:
    parsed = step.Config(**config, zero_stage=None, **dict.fromkeys(initial, "i"))
    context = _context(step, parsed, tiny, root)
    context = type(context)(**{**context.__dict__, "inputs": {**tiny.inputs, **initial}})
    summary = step.run(context)
    record = {"kind": step.kind, "version": step.version, "config": {}}
    return finish(
        context.draft,
        step=record,
        inputs=context.inputs,
        summary=summary,
        seconds=0.0,
        rows=Rows(total=1, kept=1),
    )


def _widened(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "network": {**config["network"], "inpainting": True}}


@pytest.mark.parametrize(("step", "config"), [(TrainDecoder(), DECODER), (TrainUpsampler(), UPSAMPLER)])
def test_a_stage_is_fine_tuned_for_inpainting(
    step: TrainStep[Any], config: dict[str, Any], tiny: Tiny, tmp_path: Path
) -> None:
    first = _trained(step, config, tiny, tmp_path / "a")
    wide = step.Config(**_widened(config), initial="i")
    assert step.check_inputs(wide, {**tiny.inputs, "initial": first}) == []
    tuned = _trained(step, _widened(config), tiny, tmp_path / "b", initial=first)
    assert json.loads((tuned.path / "config.json").read_bytes())["objective"]["inpainting"] is True
    before, after = (load_file(a.path / "ema.safetensors") for a in (first, tuned))
    seen = before[STEM].shape[1]
    assert after[STEM].shape[1] == seen + 4 and float(after[STEM][:, seen:].abs().max()) > 0
    assert float((after[STEM][:, :seen] - before[STEM]).abs().max()) < 0.02
    # It begins where the first ended, on the same validation noise, but for weights against their average.
    ends = json.loads((first.path / "training.json").read_bytes())["history"][-1]["validation_loss"]
    begins = json.loads((tuned.path / "training.json").read_bytes())["history"][0]["validation_loss"]
    assert begins == pytest.approx(ends, rel=0.05)


def test_the_first_weights_are_the_averaged_ones(tiny: Tiny, tmp_path: Path) -> None:
    step = TrainUpsampler()
    first = _trained(step, UPSAMPLER, tiny, tmp_path)
    context = _context(step, step.Config(**UPSAMPLER), tiny, tmp_path / "b")
    context = type(context)(**{**context.__dict__, "inputs": {**tiny.inputs, "initial": first}})
    network = build_network(step.job(context), torch.device("cpu"))
    expected = load_file(first.path / "ema.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_a_stage_that_does_not_fit_is_refused_before_training(tiny: Tiny, tmp_path: Path) -> None:
    step = TrainUpsampler()
    inputs = {**tiny.inputs, "initial": _trained(step, UPSAMPLER, tiny, tmp_path)}
    narrow = {**UPSAMPLER, "network": {**UPSAMPLER["network"], "model_channels": 4, "norm_groups": 2}}
    (problem,) = step.check_inputs(step.Config(**narrow, initial="i"), inputs)
    assert "network.model_channels is 4, but 8 in" in problem and "also different: norm_groups" in problem
    linear = {**UPSAMPLER, "diffusion": {**UPSAMPLER["diffusion"], "schedule": "linear"}}
    (problem,) = step.check_inputs(step.Config(**linear, initial="i"), inputs)
    assert "'schedule': 'linear'" in problem and "'schedule': 'cosine'" in problem
    (problem,) = TrainDecoder().check_inputs(TrainDecoder.Config(**DECODER, initial="i"), inputs)
    assert "expected a DecoderConfig, got a UpsamplerConfig" in problem
