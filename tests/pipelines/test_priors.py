"""Either prior, with what its sampling needs, through evaluation, registration and generation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from infra.store import Artifact
from models.sampling import StageSampling
from pipelines.aligned import encoder_identity
from pipelines.cascade_io import CascadeError, compose, open_stage, read_cascade, write_cascade
from pipelines.evaluate.step import Evaluate
from pipelines.generate import _override, generate
from pipelines.register import RegisterConfig
from tests.pipelines.conftest import CONFIG, run_evaluate, run_register
from tests.tiny_cascade import AR_PRIOR, DIM, PRIOR, SAMPLING, VOCAB, X0, tiny_stage

ANALYTIC = dataclasses.replace(SAMPLING, prior=StageSampling(sampler="ddpm", steps=4, variance="analytic"))


def test_an_autoregressive_prior_is_evaluated_registered_and_generates(
    tmp_path: Path, stages: dict[str, Artifact], verdict: Artifact
) -> None:
    prior = tiny_stage(tmp_path, "prior", AR_PRIOR, None, encoder_identity(stages["embeddings"]))
    inputs = stages | {"verdict": verdict, "prior": prior}
    for name in ("upsampler_256", "upsampler_1024"):
        del inputs[name]
    sampling = dataclasses.replace(ANALYTIC, upsamplers=())
    config = CONFIG.model_copy(update={"sampling": sampling})
    assert Evaluate().check_inputs(config, inputs) == []
    evaluation = Artifact.open(run_evaluate(tmp_path, "e", inputs, config).path)
    figures = json.loads((evaluation.path / "evaluation.json").read_bytes())["sections"]["prior"]
    assert {
        "cosine_posterior_mean",
        "bits_trained",
        "bits_below_marginal_in_standard_errors",
    } <= figures.keys()
    assert not {"loss_trained", "cosine_one_step"} & figures.keys()
    assert figures["bits_trained"]["value"] > figures["bits_marginal"]["value"]

    register = RegisterConfig(evaluation="-", corpus="-", embeddings="-", prior="-", decoder="-")
    model = run_register(tmp_path, "m", inputs | {"evaluation": evaluation}, register)
    assert "an autoregressive prior" in (model.path / "README.md").read_text()
    cascade = read_cascade(model.path)
    assert torch.equal(cascade.model.state_dict()["prior.codec.low"], _weights(prior)["codec.low"])
    whole = generate(model.path, ["a cat"], n=2, out_dir=tmp_path / "whole")
    parts = generate(model.path, ["a cat"], n=2, out_dir=tmp_path / "parts", batch=1, steps=3)
    assert len(whole) == len(parts) == 3


def _weights(stage: Artifact) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(stage.path / "ema.safetensors")


def test_noise_powers_travel_with_the_model(tmp_path: Path, stages: dict[str, Artifact]) -> None:
    powers = {"4": torch.linspace(0.2, 0.9, 4).double()}
    encoder = encoder_identity(stages["embeddings"])
    prior = tiny_stage(tmp_path, "prior", PRIOR, X0, encoder, noise_powers=powers)
    model = compose(open_stage(prior.path), open_stage(stages["decoder"].path), [])
    sampling = dataclasses.replace(ANALYTIC, upsamplers=())
    write_cascade(
        tmp_path / "model", model, sampling=sampling, encoder="lit", encoder_identity=encoder, heads=None
    )
    cascade = read_cascade(tmp_path / "model")
    assert torch.equal(cascade.model.noise_powers.state_dict()["4"], powers["4"])

    tokens, embedding = torch.randint(VOCAB, (2, 5)), torch.nn.functional.normalize(torch.randn(2, DIM))
    mask = torch.ones(2, 5, dtype=torch.bool)
    before, after = (
        m.sample_prior(tokens, mask, embedding, seed=0, settings=sampling.prior)
        for m in (model, cascade.model)
    )
    assert torch.equal(before, after)
    assert _override(cascade, guidance=None, steps=4, tile=None).prior.variance == "analytic"
    assert _override(cascade, guidance=None, steps=3, tile=None).prior.variance == "model"
    path = tmp_path / "model" / "noise_powers.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CascadeError, match=r"noise_powers.safetensors is damaged"):
        read_cascade(tmp_path / "model")


def test_steps_that_were_not_estimated_are_refused_before_the_evaluation(stages: dict[str, Artifact]) -> None:
    config = CONFIG.model_copy(update={"sampling": ANALYTIC})
    (problem,) = Evaluate().check_inputs(config, stages)
    assert "no analytic variance was estimated for 4 steps, only for none" in problem
    assert "train the prior with analytic_steps [4]" in problem
    assert Evaluate().check_inputs(CONFIG, stages) == []
