"""`workflows/recipes/paper.yaml` against the paper's Table 3 (2204.06125, appendix C), number by number."""

from typing import Any

import pytest
import torch

from models.config import NetworkConfig, parameter_count
from workflows.recipe import load_recipe

STAGES = ("prior", "decoder", "upsampler_256", "upsampler_1024")
NOT_STATED = object()

TABLE_3: dict[str, tuple[Any, Any, Any, Any]] = {
    # row: diffusion prior, 64, 64 -> 256, 256 -> 1024
    "diffusion.steps": (1000, 1000, 1000, 1000),
    "diffusion.schedule": ("cosine", "cosine", "cosine", "linear"),
    "crop_fraction": (NOT_STATED, NOT_STATED, 0.25, 0.25),
    "network.model_channels": (NOT_STATED, 512, 320, 192),
    "network.num_res_blocks": (NOT_STATED, 3, 3, 2),
    "network.channel_mult": (NOT_STATED, (1, 2, 3, 4), (1, 2, 3, 4), (1, 1, 2, 2, 4, 4)),
    "network.num_head_channels": (NOT_STATED, 64, NOT_STATED, NOT_STATED),
    "network.attention_resolutions": (NOT_STATED, (32, 16, 8), NOT_STATED, NOT_STATED),
    "network.dropout": (0.0, 0.1, 0.1, 0.0),
    "optimiser.weight_decay": (6.0e-2, 0.0, 0.0, 0.0),
    "batch": (4096, 2048, 1024, 512),
    "steps": (600_000, 800_000, 1_000_000, 1_000_000),
    "optimiser.lr": (1.1e-4, 1.2e-4, 1.2e-4, 1.0e-4),
    "optimiser.beta1": (0.9, 0.9, 0.9, 0.9),
    "optimiser.beta2": (0.96, 0.999, 0.999, 0.999),
    "optimiser.eps": (1e-6, 1e-8, 1e-8, 1e-8),
    "ema_decay": (0.9999, 0.9999, 0.9999, 0.9999),
}

TEXT_ENCODER = {"context": 256, "width": 2048, "layers": 24, "heads": 32}

SAMPLING = {
    "prior": {"steps": 64, "sampler": "ddpm", "variance": "analytic"},
    "decoder": {"steps": 250, "sampler": "ddpm", "guidance": 1.25},
    "upsampler_256": {"steps": 27, "sampler": "ddim"},
    "upsampler_1024": {"steps": 15, "sampler": "ddim"},
}

PARAMETERS = {
    # Counted from the published modules at these sizes; the paper rounds to 1B, 3.5B, 700M and 300M.
    "prior": 1.226e9 + 0.103e9,
    "decoder": 3.55e9,
    "upsampler_256": 0.730e9,
    "upsampler_1024": 0.282e9,
}


AR_PRIOR = {
    # Table 3's first column.
    "network.text_context": 256,
    "network.text_width": 2048,
    "network.text_layers": 24,
    "network.text_heads": 32,
    "network.context": 384,
    "network.width": 1664,
    "network.layers": 24,
    "network.heads": 26,
    "network.dropout": 0.0,
    "optimiser.weight_decay": 4.0e-2,
    "batch": 4096,
    "steps": 1_000_000,
    "optimiser.lr": 1.6e-4,
    "optimiser.beta1": 0.9,
    "optimiser.beta2": 0.91,
    "optimiser.eps": 1e-10,
    "ema_decay": 0.999,
    # Section 2.2.
    "network.components": 319,
    "network.buckets": 1024,
    "least_variance": 0.99,
    "drop_text": 0.1,
}


def config_of(step: str) -> Any:
    return load_recipe("paper").node(step).config


def value_at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("row", TABLE_3)
def test_every_row_of_table_3(row: str) -> None:
    for stage, expected in zip(STAGES, TABLE_3[row], strict=True):
        if expected is not NOT_STATED:
            assert value_at(config_of(stage), row) == expected, stage


def test_text_encoders_are_those_of_table_3() -> None:
    prior, decoder = config_of("prior").network, config_of("decoder").network
    for name, expected in TEXT_ENCODER.items():
        assert (getattr(prior, name), getattr(decoder, f"text_{name}")) == (expected, expected), name


def test_conditions_and_variances_are_those_of_section_2() -> None:
    prior, decoder = config_of("prior"), config_of("decoder")
    assert (prior.diffusion.prediction, prior.drop_text) == ("x0", 0.1)
    assert (decoder.drop_image, decoder.drop_text, decoder.network.image_tokens) == (0.1, 0.5, 4)
    assert decoder.diffusion.variance == "learned_range"
    first, second = config_of("upsampler_256"), config_of("upsampler_1024")
    assert (first.degradation, second.degradation) == ("blur", "bsr")
    for stage in (first, second):
        assert stage.network.unet.attention_resolutions == () and not stage.network.unet.middle_attention
    assert (first.crop, second.crop) == (64, 256)


def test_sampling_is_that_of_table_3() -> None:
    sampling = config_of("evaluate").sampling
    stages = dict(zip(STAGES, (sampling.prior, sampling.decoder, *sampling.upsamplers), strict=True))
    for name, expected in SAMPLING.items():
        steps = config_of(name).diffusion.build().spaced(stages[name].steps).num_steps
        got = stages[name].to_dict() | {"steps": steps}
        assert {key: got[key] for key in expected} == expected, name
        assert stages[name].eta == 0
    assert sampling.prior_candidates == 2
    assert sampling.prior.steps in config_of("prior").analytic_steps


@pytest.mark.parametrize("stage", STAGES)
def test_parameter_counts_are_within_3_percent(stage: str) -> None:
    config = config_of(stage).network
    assert isinstance(config, NetworkConfig)
    with torch.device("meta"):
        network = config.build()
    assert parameter_count(network) == pytest.approx(PARAMETERS[stage], rel=0.03)


def test_the_autoregressive_prior_is_table_3s_and_takes_the_others_place() -> None:
    recipe = load_recipe("paper_ar_prior")
    for path, expected in AR_PRIOR.items():
        assert value_at(recipe.node("ar_prior").config, path) == expected, path
    for step in ("evaluate", "register"):
        assert getattr(recipe.node(step).inputs["prior"], "name", None) == "ar_prior"
    assert recipe.node("evaluate").config.sampling.prior_candidates == 1  # type: ignore[attr-defined]


def test_nothing_is_trained_before_somebody_approved() -> None:
    recipe = load_recipe("paper")
    for stage in STAGES:
        assert getattr(recipe.node(stage).inputs["verdict"], "name", None) == "approve"
