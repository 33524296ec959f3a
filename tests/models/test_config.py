import dataclasses
import json
import math
import subprocess
import sys

import pydantic
import pytest

from models.config import (
    ARPriorConfig,
    ClipHeadsConfig,
    DecoderConfig,
    DiffusionConfig,
    NetworkConfig,
    NoisedClipConfig,
    PriorConfig,
    UnCLIPConfig,
    UNetConfig,
    UpsamplerConfig,
    from_tagged,
    tagged,
)
from models.config_text import TextFeaturesConfig
from models.diffusion.schedule import spaced_steps
from models.sampling import CascadeSampling, StageSampling
from tests.models.tiny import AR_PRIOR, AR_UNCLIP, CLIP_HEADS, DECODER, PRIOR, UNCLIP, UPSAMPLER

NOISED_CLIP = NoisedClipConfig(embedding_dim=4, width=8, layers=1, heads=2, image_size=8)


@pytest.mark.parametrize(
    "config", [PRIOR, AR_PRIOR, DECODER, UPSAMPLER, DECODER.unet, CLIP_HEADS, NOISED_CLIP, UNCLIP, AR_UNCLIP]
)
def test_a_configuration_survives_json_and_rebuilds_its_network(config: NetworkConfig) -> None:
    restored = from_tagged(json.loads(json.dumps(tagged(config))))
    assert restored == config
    assert restored.build().state_dict().keys() == config.build().state_dict().keys()


def test_sampling_settings_survive_json() -> None:
    settings = CascadeSampling(upsamplers=(StageSampling(steps="10,10,3,2,2"),))
    assert CascadeSampling.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_recipes_can_embed_a_configuration_and_unknown_keys_are_refused() -> None:
    class Recipe(pydantic.BaseModel):
        decoder: DecoderConfig
        process: DiffusionConfig = DiffusionConfig()

    values = DECODER.to_dict()
    assert Recipe(decoder=values).decoder == DECODER  # type: ignore[arg-type]
    with pytest.raises(pydantic.ValidationError, match="depth"):
        Recipe(decoder={**values, "depth": 3})  # type: ignore[arg-type]
    with pytest.raises(pydantic.ValidationError, match="must be divisible"):
        Recipe(decoder={**values, "text_heads": 3})  # type: ignore[arg-type]
    assert Recipe.model_json_schema()["properties"].keys() == {"decoder", "process"}


def test_reading_a_configuration_loads_no_torch() -> None:
    code = "import sys, models.config, models.sampling; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "steps",
    [
        *(64, 1, "64", " 7 ", "10,10,3,2,2", "10, 3", "ddim50", "007"),
        *(0, -1, "", "abc", "ddim", "ddim0", "1,", ",1", "3,0", "ddim5,5", "1.5", "1 2"),
    ],
)
def test_settings_take_the_steps_that_sampling_takes(steps: int | str) -> None:
    """The check that needs no torch, and the samplers' own."""
    try:
        spaced_steps(1000, steps)
    except ValueError:
        with pytest.raises(ValueError, match=r"StageSampling\.steps: expected a positive number"):
            StageSampling(steps=steps)
    else:
        assert StageSampling(steps=steps).steps == steps


@pytest.mark.parametrize("name", ["guidance", "eta"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_strengths_are_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="numbers of at least 0"):
        StageSampling(**{name: value})  # type: ignore[arg-type]


ANALYTIC = StageSampling(sampler="ddpm", variance="analytic")
FIELDS = {f.name: getattr(UNCLIP, f.name) for f in dataclasses.fields(UNCLIP)}
UNET = {"image_size": 64, "model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1}
AR = AR_PRIOR.to_dict()
BAD: list[tuple[type, dict[str, object], str]] = [
    (UNetConfig, {**UNET, "image_size": 63}, r"image_size \(63\) must be divisible by stride \(2\)"),
    (UNetConfig, {**UNET, "model_channels": 48}, r"\(48\) must be divisible by norm_groups \(32\)"),
    (UNetConfig, {**UNET, "attention_resolutions": (16,)}, r"\[16\] are not among .*\[64, 32\]"),
    (UNetConfig, {**UNET, "num_head_channels": 48}, r"channels at 32 px \(64\).*num_head_channels \(48\)"),
    (UNetConfig, {**UNET, "channel_mult": ()}, "channel_mult: expected positive integers"),
    (UNetConfig, {**UNET, "dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0"),
    (UNetConfig, {**UNET, "num_res_blocks": 0}, "num_res_blocks: expected a positive integer, got 0"),
    (PriorConfig, {"embedding_dim": 8, "context": 4, "width": 8, "layers": 1, "heads": 3}, "heads"),
    (PriorConfig, {"embedding_dim": 8, "context": 4, "width": 8, "layers": 1, "heads": 2}, "exactly one"),
    (ARPriorConfig, {**AR, "components": 17}, "components: expected at most embedding_dim=16, got 17"),
    (ARPriorConfig, {**AR, "components": 8}, "8 components need 9 positions .* got 8"),
    (ARPriorConfig, {**AR, "text_heads": 3}, "heads"),
    (StageSampling, {"variance": "analytic"}, "belongs to sampler 'ddpm', got 'ddim'"),
    (CascadeSampling, {"decoder": ANALYTIC}, "estimated for the prior alone"),
    (UNetConfig, {**UNET, "num_res_blocks": (1, 2, 3)}, r"each of the 2 levels, got \(1, 2, 3\)"),
    (UNetConfig, {**UNET, "num_res_blocks": (1, 0)}, r"a positive integer for each"),
    (UNetConfig, {**UNET, "self_attention": False}, "nothing else to attend to"),
    (UNetConfig, {**UNET, "image_size": 62, "efficient_order": True}, r"\(62\) must be .* stride \(4\)"),
    (
        UpsamplerConfig,
        {
            **UNET,
            "low_res_size": 16,
            "text": TextFeaturesConfig(features_dim=8, context=4, width=8, time_width=64),
        },
        r"time_width: expected 4 \* model_channels = 128, got 64",
    ),
    (NoisedClipConfig, {"embedding_dim": 8, "width": 8, "layers": 1, "heads": 1, "patch_size": 7}, "patch"),
    (UpsamplerConfig, {**UNET, "low_res_size": 48}, r"image_size \(64\) must be divisible by low_res_size"),
    (UpsamplerConfig, {**UNET, "low_res_size": 16, "residual": True}, "learned_variance"),
    (ClipHeadsConfig, {"image_dim": 8, "text_dim": 8, "dim": -1}, "dim: expected a positive integer"),
    (
        UpsamplerConfig,
        {
            **UNET,
            "low_res_size": 16,
            "text": TextFeaturesConfig(features_dim=8, context=4, width=8, time_width=128, pooled_dim=8),
        },
        "pooled_dim: upsamplers are given features alone, it must be null, got 8",
    ),
    (
        UnCLIPConfig,
        {**FIELDS, "prior": dataclasses.replace(PRIOR, vocab_size=60)},
        "vocab_size is 60 of the prior and 50 of the decoder",
    ),
    (UnCLIPConfig, {**FIELDS, "prior": AR_PRIOR}, "nothing else has one"),
    (UnCLIPConfig, {**FIELDS, "prior_diffusion": None}, "a diffusion prior needs a process"),
    (
        UnCLIPConfig,
        {
            "prior": PRIOR,
            "prior_diffusion": UNCLIP.prior_diffusion,
            "decoder": DECODER,
            "decoder_diffusion": UNCLIP.decoder_diffusion,
            "upsamplers": (UPSAMPLER, UPSAMPLER),
            "upsampler_diffusions": UNCLIP.upsampler_diffusions * 2,
        },
        r"upsamplers\[1\]: expects 16 px, the stage before it makes 32 px",
    ),
]


@pytest.mark.parametrize(("config", "values", "message"), BAD)
def test_a_bad_value_says_expected_got_and_where(
    config: type, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_unknown_and_missing_keys_are_named() -> None:
    with pytest.raises(ValueError, match="unknown key 'widht'; did you mean 'width'"):
        PriorConfig.from_dict({"widht": 8})
    with pytest.raises(ValueError, match="missing context, embedding_dim, heads, layers"):
        PriorConfig.from_dict({"width": 8})
    with pytest.raises(ValueError, match="got 'VaeConfig'"):
        from_tagged({"config": "VaeConfig"})
