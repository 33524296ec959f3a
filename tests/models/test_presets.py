"""The published relatives at their published sizes, and at toy size from text to picture."""

import dataclasses
import json

import pytest
import torch
from torch import Tensor

from models.cascade import UnCLIP
from models.config import (
    DecoderConfig,
    DiffusionConfig,
    NoisedClipConfig,
    UnCLIPConfig,
    UpsamplerConfig,
    from_tagged,
    parameter_count,
    tagged,
)
from models.config_text import TextFeaturesConfig, TextTransformerConfig
from models.layers import AttentionBlock, CrossAttentionBlock
from models.noised_clip import clip_guide
from models.presets import GLIDE, GLIDE_SAMPLING, GLIDE_SMALL, IMAGEN, IMAGEN_SAMPLING
from models.sampling import CascadeSampling, StageSampling, check_upsamplers
from models.upsampler import Upsampler
from tests.models.tiny import CONTEXT, DECODER, DIM, PRIOR, UNCLIP, VOCAB, prompts, randomised, unit

C = 12
"""Width of the toy text encoder's features."""


def sizes(config: DecoderConfig | UpsamplerConfig) -> tuple[float, float]:
    """Billions of parameters: all, and the U-Net's."""
    with torch.device("meta"):
        network = config.build()
    return parameter_count(network) / 1e9, parameter_count(network.unet) / 1e9


def test_glide_has_the_published_sizes() -> None:
    """3.5 B of which "roughly 2.3 B" are the U-Net; an upsampler of 1.5 B; 0.308 B of the released U-Net."""
    total, unet = sizes(GLIDE.decoder)
    assert total == pytest.approx(3.5, rel=0.02)
    assert unet == pytest.approx(2.3, rel=0.03)
    # With the base's depth of text encoder; the paper says the width alone.
    assert sizes(GLIDE.upsamplers[0])[0] == pytest.approx(1.5, rel=0.10)
    assert sizes(GLIDE_SMALL.decoder)[1] == pytest.approx(0.308, rel=0.002)


def test_imagen_has_the_published_sizes_but_for_the_last_stage() -> None:
    """2 B, 600 M and 400 M.  The last one's blocks come to 0.63 B as ADM's residual blocks; why the published
    network is smaller is not known here."""
    base, first, second = (sizes(c)[0] for c in (IMAGEN.decoder, *IMAGEN.upsamplers))
    assert base == pytest.approx(2.0, rel=0.08)
    assert first == pytest.approx(0.6, rel=0.06)
    assert second == pytest.approx(0.632, rel=0.01)


@pytest.mark.parametrize("config", [GLIDE, GLIDE_SMALL, IMAGEN], ids=["glide", "small glide", "imagen"])
def test_presets_survive_json(config: UnCLIPConfig) -> None:
    assert from_tagged(json.loads(json.dumps(tagged(config)))) == config


def test_presets_can_be_sampled_as_their_papers_do() -> None:
    check_upsamplers(GLIDE_SAMPLING.upsamplers, GLIDE.upsamplers)
    check_upsamplers(IMAGEN_SAMPLING.upsamplers, IMAGEN.upsamplers)


def test_imagens_last_stage_attends_to_text_alone() -> None:
    with torch.device("meta"):
        first, second = (c.build() for c in IMAGEN.upsamplers)
    assert any(isinstance(m, AttentionBlock) for m in first.modules())
    assert not any(isinstance(m, AttentionBlock) for m in second.modules())
    assert any(isinstance(m, CrossAttentionBlock) for m in second.modules())


# ---- at toy size -------------------------------------------------------------------------------------------

FEATURES = TextFeaturesConfig(features_dim=C, context=CONTEXT, width=16, time_width=64)
FIRST = UpsamplerConfig(
    image_size=32,
    low_res_size=16,
    model_channels=16,
    channel_mult=(1, 2),
    num_res_blocks=(1, 2),
    norm_groups=8,
    num_head_channels=16,
    text=FEATURES,
    middle_attention=True,
    efficient=True,
    noise_conditioning=True,
)
SECOND = dataclasses.replace(
    FIRST, image_size=64, low_res_size=32, attention_resolutions=(16,), self_attention=False
)
STEPS = DiffusionConfig(steps=100)
TINY_IMAGEN = UnCLIPConfig(
    prior=None,
    prior_diffusion=None,
    decoder=dataclasses.replace(
        DECODER, embedding_dim=None, vocab_size=None, text_layers=None, text_heads=None, text_features_dim=C
    ),
    decoder_diffusion=STEPS,
    upsamplers=(FIRST, SECOND),
    upsampler_diffusions=(STEPS, DiffusionConfig(steps=100, schedule="linear")),
)
TINY_GLIDE = UnCLIPConfig(
    prior=None,
    prior_diffusion=None,
    decoder=dataclasses.replace(DECODER, embedding_dim=None),
    decoder_diffusion=STEPS,
    upsamplers=(
        dataclasses.replace(
            FIRST,
            efficient=False,
            noise_conditioning=False,
            text=TextTransformerConfig(vocab_size=VOCAB, context=CONTEXT, width=16, layers=1, heads=2),
        ),
    ),
    upsampler_diffusions=(DiffusionConfig(steps=100, schedule="linear"),),
)
SAMPLING = CascadeSampling(
    decoder=StageSampling(sampler="ddpm", steps=4, guidance=1.35, dynamic_threshold=0.995),
    upsamplers=(
        StageSampling(sampler="ddpm", steps=3, guidance=8.0, dynamic_threshold=0.995, noise_level=0.2),
        StageSampling(steps=3, guidance=8.0, dynamic_threshold=0.995, noise_level=0.2),
    ),
)
IMAGEN_MODEL, GLIDE_MODEL = randomised(UnCLIP(TINY_IMAGEN)), randomised(UnCLIP(TINY_GLIDE))
TEXT = torch.randn(3, CONTEXT, C, generator=torch.Generator().manual_seed(0))
TOKENS, MASK = prompts([4, 6, 2])


def imagen(text: Tensor = TEXT, mask: Tensor = MASK, **changes: object) -> tuple[Tensor, ...]:
    settings = {"seed": 0, "sampling": SAMPLING, **changes}
    return IMAGEN_MODEL.generate(text, mask, **settings).images_m11  # type: ignore[arg-type]


def test_a_cascade_without_a_prior_survives_json() -> None:
    for model in (IMAGEN_MODEL, GLIDE_MODEL):
        restored = UnCLIPConfig.from_dict(json.loads(json.dumps(model.config.to_dict())))
        assert restored == model.config
        assert restored.build().state_dict().keys() == model.state_dict().keys()


def upsampled(stage: int, **changes: object) -> list[StageSampling]:
    settings = list(SAMPLING.upsamplers)
    settings[stage] = dataclasses.replace(settings[stage], **changes)  # type: ignore[arg-type]
    return settings


def test_features_become_pictures_without_a_prior() -> None:
    images = imagen(samples=2)
    assert [tuple(image.shape) for image in images] == [(6, 3, 16, 16), (6, 3, 32, 32), (6, 3, 64, 64)]
    assert all(0.01 < float(image.abs().max()) <= 1 for image in images)
    assert IMAGEN_MODEL.generate(TEXT, MASK, seed=0, sampling=SAMPLING).image_embeddings is None


def test_every_stage_reads_the_text_and_none_its_padding() -> None:
    images = imagen()
    assert all(map(torch.equal, images, imagen(TEXT.where(MASK[..., None], torch.tensor(9.0)))))
    for stage, low_res in enumerate(images[:-1]):
        one, other = (
            IMAGEN_MODEL.upsample(low_res, stage, text, MASK, seed=0, settings=SAMPLING.upsamplers[stage])
            for text in (TEXT, TEXT.flip(0))
        )
        assert torch.equal(one, images[stage + 1])
        assert not torch.allclose(one, other, atol=1e-3)


def test_samples_do_not_depend_on_the_batch_split() -> None:
    together = imagen()
    parts = [imagen(TEXT[:1], MASK[:1]), imagen(TEXT[1:], MASK[1:], first_index=1)]
    for stage in range(3):
        joined = torch.cat([part[stage] for part in parts])
        torch.testing.assert_close(joined, together[stage], rtol=0, atol=1e-3)


@pytest.mark.parametrize("change", [{"guidance": 1.0}, {"noise_level": 0.0}, {"noise_level": 0.3}], ids=str)
@pytest.mark.parametrize("stage", [0, 1])
def test_guidance_and_noise_level_of_a_stage_change_it_and_what_follows(
    stage: int, change: dict[str, float]
) -> None:
    sampling = dataclasses.replace(SAMPLING, upsamplers=tuple(upsampled(stage, **change)))
    for i, (before, after) in enumerate(zip(imagen(), imagen(sampling=sampling), strict=True)):
        assert torch.equal(before, after) == (i <= stage)


def test_level_0_is_no_augmentation() -> None:
    """The input goes in untouched, whatever noise would have been added, and the network is told so."""
    seen: list[dict[str, Tensor]] = []
    network = IMAGEN_MODEL.upsamplers[0]
    assert isinstance(network, Upsampler)
    low_res = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1

    for level in (0.0, 0.5):
        settings = upsampled(0, noise_level=level, guidance=1.0, steps=1)[0]
        with network.unet.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append({"x": args[0], **kwargs}), with_kwargs=True
        ):
            IMAGEN_MODEL.upsample(low_res, 0, TEXT, MASK, seed=0, settings=settings)
    clean, noised = seen
    resized = network.resize(low_res, (32, 32))
    assert torch.equal(clean["x"][:, 3:], resized)
    assert torch.equal(clean["x"][:, :3], noised["x"][:, :3])
    assert not torch.allclose(noised["x"][:, 3:], resized, atol=0.1)
    assert not torch.allclose(noised["time_shift"], clean["time_shift"])


def test_glide_draws_from_tokens_and_is_guided_with_and_without_clip() -> None:
    plain = dataclasses.replace(SAMPLING, upsamplers=(StageSampling(steps=3, guidance=3.0),))
    images = GLIDE_MODEL.generate(TOKENS, MASK, seed=0, sampling=plain).images_m11
    assert [tuple(image.shape) for image in images] == [(3, 3, 16, 16), (3, 3, 32, 32)]
    encoder = randomised(
        NoisedClipConfig(embedding_dim=DIM, width=16, layers=1, heads=2, image_size=16).build()
    )
    target, decode = unit(3), {"seed": 0, "settings": plain.decoder}
    assert torch.equal(GLIDE_MODEL.decode(None, TOKENS, MASK, **decode), images[0])
    led = GLIDE_MODEL.decode(None, TOKENS, MASK, guide=clip_guide(encoder, target, 300.0), **decode)
    cosines = [(encoder(x, torch.zeros(3, dtype=torch.long)) * target).sum(dim=1) for x in (images[0], led)]
    assert bool((cosines[1] > cosines[0]).all())
    heun = dataclasses.replace(plain.decoder, sampler="heun")
    with pytest.raises(ValueError, match="a guide needs sampler 'ddpm' or 'ddim', got 'heun'"):
        GLIDE_MODEL.decode(None, TOKENS, MASK, seed=0, settings=heun, guide=clip_guide(encoder, target, 1.0))


def test_settings_that_do_not_fit_are_refused_before_any_work() -> None:
    with pytest.raises(
        ValueError, match=r"upsamplers\[0\]: this upsampler reads no text, guidance must be 1"
    ):
        UnCLIP(UNCLIP).generate(TOKENS, MASK, unit(3), seed=0, sampling=SAMPLING)
    with pytest.raises(ValueError, match="not trained with noise conditioning, noise_level must be 0"):
        GLIDE_MODEL.generate(TOKENS, MASK, seed=0, sampling=SAMPLING)
    with pytest.raises(ValueError, match="this cascade has no prior"):
        GLIDE_MODEL.sample_prior(TOKENS, MASK, unit(3), seed=0, settings=SAMPLING.prior)
    with pytest.raises(ValueError, match="the prior reads a text embedding, got none"):
        UnCLIP(UNCLIP).generate(TOKENS, MASK, seed=0)
    with pytest.raises(ValueError, match=r"noise_level must lie in \[0, 1\], got 1.5"):
        StageSampling(noise_level=1.5)
    with pytest.raises(ValueError, match="noise_level is of upsamplers"):
        CascadeSampling(decoder=StageSampling(noise_level=0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": PRIOR}, "a diffusion prior needs a process"),
        ({"decoder": DECODER}, "makes embeddings of no dimensions, the decoder expects 16"),
        (
            {"prior": PRIOR, "prior_diffusion": UNCLIP.prior_diffusion},
            "makes embeddings of 16 dimensions, the decoder expects none",
        ),
        (
            {"upsamplers": TINY_GLIDE.upsamplers, "upsampler_diffusions": (STEPS,)},
            "all stages see one text, but the decoder takes features of width 12, this one token ids",
        ),
    ],
)
def test_stages_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY_IMAGEN, **changes)  # type: ignore[arg-type]
