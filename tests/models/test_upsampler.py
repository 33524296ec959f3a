import dataclasses

import pytest
import torch
import torch.nn.functional as F

from models.config import UpsamplerConfig
from models.config_text import TextTransformerConfig
from models.layers import AttentionBlock
from tests.models.tiny import CONTEXT, UPSAMPLER, VOCAB, prompts, randomised

T = torch.tensor([10])


def test_no_attention_is_left_anywhere() -> None:
    assert not any(isinstance(module, AttentionBlock) for module in UPSAMPLER.build().modules())


def test_an_untrained_residual_upsampler_returns_the_bicubic_image() -> None:
    low_res = torch.rand(1, 3, 8, 12) * 2 - 1
    out = UPSAMPLER.build()(torch.randn(1, 3, 16, 24), T, low_res)
    torch.testing.assert_close(out, F.interpolate(low_res, (16, 24), mode="bicubic"))


def test_trained_on_crops_it_runs_at_any_size_and_reads_both_inputs() -> None:
    network = randomised(dataclasses.replace(UPSAMPLER, residual=False, learned_variance=True).build())
    for side in (16, 64):
        x, low_res = torch.randn(1, 3, side, side), torch.rand(1, 3, side // 2, side // 2)
        out = network(x, T, low_res)
        assert out.shape == (1, 6, side, side)
        assert not torch.allclose(out, network(x + 1, T, low_res))
        assert not torch.allclose(out, network(x, T, low_res * 0.5))


TEXT = TextTransformerConfig(vocab_size=VOCAB, context=CONTEXT, width=16, layers=1, heads=2)
READING = dataclasses.replace(
    UPSAMPLER,
    residual=False,
    patch_size=1,
    num_res_blocks=(1, 2),
    num_head_channels=16,
    text=TEXT,
    middle_attention=True,
    efficient=True,
    noise_conditioning=True,
)
ALONE = dataclasses.replace(READING, attention_resolutions=(8,), self_attention=False)
TOKENS, MASK = prompts([6, 3])


@pytest.mark.parametrize("config", [READING, ALONE], ids=["both attentions", "text alone"])
def test_an_upsampler_that_reads_trains_every_parameter(config: UpsamplerConfig) -> None:
    network = randomised(config.build())
    x, low_res, level = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 16, 16), torch.tensor([0.1, 0.9])
    drop = torch.tensor([True, False])
    network(x, torch.tensor([3, 70]), low_res, level, TOKENS, MASK, drop).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_text_and_level_reach_the_output_and_a_dropped_text_does_not() -> None:
    network = randomised(READING.build())
    x, t, low_res = torch.randn(2, 3, 32, 32), torch.tensor([3, 70]), torch.randn(2, 3, 16, 16)
    level, drop = torch.full((2,), 0.2), torch.tensor([True, False])
    base = network(x, t, low_res, level, TOKENS, MASK, drop)
    assert torch.equal(base, network(x, t, low_res, level, TOKENS, MASK & ~drop[:, None]))
    other_text = network(x, t, low_res, level, (TOKENS + 1) % VOCAB, MASK, drop)
    assert torch.equal(base[0], other_text[0])
    assert not torch.allclose(base[1], other_text[1], atol=1e-4)
    other_level = network(x, t, low_res, level + 0.3, TOKENS, MASK, drop)
    assert not torch.allclose(base, other_level, atol=1e-4)


def test_conditions_against_the_configuration_are_refused() -> None:
    plain, reading = UPSAMPLER.build(), READING.build()
    level = torch.zeros(2)
    with pytest.raises(ValueError, match=r"expected no text, got \(2, 6\)"):
        plain.condition(text=TOKENS, text_mask=MASK)
    with pytest.raises(ValueError, match=r"expected no noise_level, got \(2,\)"):
        plain.condition(level)
    with pytest.raises(ValueError, match="expected a text, got none"):
        reading.condition(level)
    with pytest.raises(ValueError, match="expected a noise_level, got none"):
        reading.condition(text=TOKENS, text_mask=MASK)
    with pytest.raises(ValueError, match="Upsampler: expected token ids"):
        reading.condition(level, torch.randn(2, CONTEXT, 4), MASK)


def test_shapes_that_do_not_match_are_refused() -> None:
    network = UPSAMPLER.build()
    with pytest.raises(ValueError, match="16x16 and the low resolution 8x4 differ in shape"):
        network(torch.randn(1, 3, 16, 16), T, torch.randn(1, 3, 8, 4))
    with pytest.raises(ValueError, match="divisible by 4"):
        network(torch.randn(1, 3, 18, 18), T, torch.randn(1, 3, 9, 9))


def test_the_last_step_has_a_network_of_its_own() -> None:
    network = randomised(dataclasses.replace(UPSAMPLER, last_step_unet=True).build())
    x, low_res = torch.randn(2, 3, 16, 16), torch.rand(2, 3, 8, 8)
    plain = UPSAMPLER.build()
    for t, part in ((torch.tensor([0, 0]), network.last_unet), (torch.tensor([7, 3]), network.unet)):
        assert part is not None
        plain.unet.load_state_dict(part.state_dict())
        assert torch.equal(network(x, t, low_res), plain(x, t, low_res))
    with pytest.raises(ValueError, match="all samples are at step 0 or none"):
        network(x, torch.tensor([0, 3]), low_res)


def test_antialiased_bicubic_is_another_kernel() -> None:
    low_res = torch.rand(1, 3, 8, 8)
    networks = [
        dataclasses.replace(UPSAMPLER, interpolation=name).build()
        for name in ("bicubic", "bicubic_antialias")
    ]
    one, two = (network.resize(low_res, (32, 32)) for network in networks)
    assert 0.001 < float((one - two).abs().max()) < 0.2
