"""What the parity tests cannot show: the text pathway, pixel folding, and bad input."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.config import UNetConfig
from models.layers import AttentionBlock, CrossAttentionBlock, ResBlock, UpsampledConv2d
from tests.models.tiny import DECODER, randomised

CONFIG = DECODER.unet
T = torch.tensor([3, 70])


def test_an_untrained_network_says_zero() -> None:
    context = torch.randn(2, 16, 5)
    assert not CONFIG.build()(torch.randn(2, 3, 16, 16), T, context=context).any()


def projected(layer: nn.Module, sequence: torch.Tensor) -> torch.Tensor:
    return layer(sequence.transpose(1, 2)).transpose(1, 2)


def test_text_positions_are_keys_and_values_of_one_softmax() -> None:
    """Against the definition: softmax over the image's own positions and the projected context together."""
    block = randomised(AttentionBlock(16, head_channels=8, norm_groups=8, encoder_channels=4))
    x, context = torch.randn(2, 16, 3, 5), torch.randn(2, 4, 6)
    q, k, v = projected(block.qkv, block.norm(x).flatten(2)).reshape(2, 2, 24, 15).split(8, dim=2)
    assert block.encoder_kv is not None
    context_k, context_v = projected(block.encoder_kv, context).reshape(2, 2, 16, 6).split(8, dim=2)
    k, v = torch.cat([context_k, k], dim=3), torch.cat([context_v, v], dim=3)
    weights = (torch.einsum("bhct,bhcs->bhts", q, k) / 8**0.5).softmax(dim=-1)
    attended = torch.einsum("bhts,bhcs->bhct", weights, v).reshape(2, 16, 15)
    expected = x + projected(block.proj_out, attended).reshape(x.shape)
    torch.testing.assert_close(block(x, context), expected, rtol=0, atol=1e-6)


def test_a_convolution_of_an_upsampling_is_what_it_says() -> None:
    layer, x = UpsampledConv2d(6, 5), torch.randn(2, 6, 3, 4, requires_grad=True)
    by_definition = F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), by_definition, rtol=0, atol=1e-6)
    weights = (x, layer.weight, layer.bias)
    ours = torch.autograd.grad(layer(x).square().sum(), weights)
    theirs = torch.autograd.grad(by_definition.square().sum(), weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_cross_attention_has_the_text_alone_for_keys_and_values() -> None:
    """Against the definition: softmax over the projected context."""
    block = randomised(CrossAttentionBlock(16, head_channels=8, norm_groups=8, encoder_channels=4))
    x, context = torch.randn(2, 16, 3, 5), torch.randn(2, 4, 6)
    q = projected(block.q, block.norm(x).flatten(2)).reshape(2, 2, 8, 15)
    k, v = projected(block.encoder_kv, context).reshape(2, 2, 16, 6).split(8, dim=2)
    weights = (torch.einsum("bhct,bhcs->bhts", q, k) / 8**0.5).softmax(dim=-1)
    attended = torch.einsum("bhts,bhcs->bhct", weights, v).reshape(2, 16, 15)
    expected = x + projected(block.proj_out, attended).reshape(x.shape)
    torch.testing.assert_close(block(x, context), expected, rtol=0, atol=1e-6)


def test_masked_text_is_not_seen_and_no_text_changes_nothing() -> None:
    block = randomised(CrossAttentionBlock(16, head_channels=8, norm_groups=8, encoder_channels=4))
    x, context = torch.randn(3, 16, 2, 2), torch.randn(3, 4, 6, requires_grad=True)
    mask = torch.arange(6)[None] < torch.tensor([6, 2, 0])[:, None]
    out = block(x, context, mask)
    torch.testing.assert_close(out[1:2], block(x[1:2], context[1:2, :, :2]))
    assert torch.equal(out[2], x[2])
    out.square().sum().backward()
    assert context.grad is not None and bool(context.grad.isfinite().all())
    assert not context.grad[1, :, 2:].any() and not context.grad[2].any()


@settings(max_examples=15, deadline=None)
@given(
    levels=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3)), min_size=1, max_size=3),
    efficient=st.booleans(),
    self_attention=st.booleans(),
    resblock_updown=st.booleans(),
    skip_scale=st.sampled_from([1.0, 2**-0.5]),
    patch_size=st.sampled_from([1, 2]),
)
def test_every_order_of_blocks_keeps_the_shape_and_trains_every_parameter(
    levels: list[tuple[int, int]], efficient: bool, patch_size: int, **options: bool | float
) -> None:
    config = UNetConfig(
        image_size=32,
        model_channels=8,
        channel_mult=tuple(mult for mult, _ in levels),
        num_res_blocks=tuple(blocks for _, blocks in levels),
        num_head_channels=4,
        encoder_channels=4,
        norm_groups=4,
        efficient_order=efficient,
        patch_size=patch_size,
        attention_resolutions=(32 // patch_size // 2**efficient,),
        **options,  # type: ignore[arg-type]
    )
    network = randomised(config.build())
    assert config.stride == patch_size * 2 ** (len(levels) - 1 + efficient)
    side = 2 * config.stride
    sides: list[int] = []
    for module in network.input_blocks.modules():
        if isinstance(module, ResBlock) and module.resample is None:
            module.register_forward_hook(lambda _, __, h: sides.append(h.shape[2]))
    out = network(torch.randn(2, 3, side, side), T, context=torch.randn(2, 4, 3))
    assert out.shape == (2, 6, side, side)
    first = side // patch_size // 2**efficient
    assert sides == [first // 2**level for level, (_, blocks) in enumerate(levels) for _ in range(blocks)]
    out.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_skip_connections_are_scaled() -> None:
    """And what comes up the middle is not."""
    network = randomised(CONFIG.build())
    x, context = torch.randn(2, 3, 16, 16), torch.randn(2, 16, 5)
    seen: dict[float, torch.Tensor] = {}
    for scale in (1.0, 0.5):
        network.config = dataclasses.replace(CONFIG, skip_scale=scale)
        block = network.output_blocks[0]
        with block.register_forward_pre_hook(lambda _, args, at=scale: seen.update({at: args[0]})):
            network(x, T, context=context)
    skip = CONFIG.model_channels * CONFIG.channel_mult[-1]
    assert torch.equal(seen[0.5][:, skip:], seen[1.0][:, skip:] * 0.5)
    assert torch.equal(seen[0.5][:, :skip], seen[1.0][:, :skip])


def test_context_and_time_shift_reach_the_output() -> None:
    network = randomised(CONFIG.build())
    x, context, shift = torch.randn(2, 3, 16, 16), torch.randn(2, 16, 5), torch.randn(2, 64)
    base = network(x, T, context=context)
    assert not torch.allclose(base, network(x, T, context=context + 1))
    assert not torch.allclose(base, network(x, T, context=context, time_shift=shift))
    assert torch.equal(base, network(x, T, context=context, time_shift=torch.zeros_like(shift)))


def test_folded_pixels_come_out_where_they_went_in() -> None:
    """With one folded pixel block changed, only outputs in its receptive field change, centred on it."""
    config = UNetConfig(
        image_size=32,
        model_channels=8,
        channel_mult=(1,),
        num_res_blocks=1,
        middle_attention=False,
        norm_groups=8,
        patch_size=4,
    )
    network = randomised(config.build())
    for module in network.modules():
        # GroupNorm spreads a change over the whole map: leave convolutions alone to be seen.
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]
    x = torch.zeros(1, 3, 256, 256)
    changed = x.clone()
    changed[:, :, 120:124, 152:156] = 1
    difference = (network(changed, T[:1]) - network(x, T[:1])).abs().sum(dim=(0, 1))
    rows, columns = (difference > 1e-9).nonzero().unbind(1)
    assert (rows.min() + rows.max() + 1, columns.min() + columns.max() + 1) == (2 * 122, 2 * 154)


@pytest.mark.parametrize("shape", [(16, 16), (24, 8), (32, 48)])
def test_any_size_its_stride_divides_is_right(shape: tuple[int, int]) -> None:
    out = CONFIG.build()(torch.randn(2, 3, *shape), T, context=torch.randn(2, 16, 5))
    assert out.shape == (2, 6, *shape)


def test_memory_layout_changes_no_result() -> None:
    network = randomised(CONFIG.build())
    x, context = torch.randn(2, 3, 16, 16), torch.randn(2, 16, 5)
    expected = network(x, T, context=context)
    network.to(memory_format=torch.channels_last)
    actual = network(x.contiguous(memory_format=torch.channels_last), T, context=context)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_bf16_autocast_runs_and_stays_near() -> None:
    network = randomised(CONFIG.build())
    x, context = torch.randn(2, 3, 16, 16), torch.randn(2, 16, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(x, T, context=context)
    full = network(x, T, context=context)
    assert F.cosine_similarity(half.float().flatten(), full.flatten(), dim=0) > 0.99


def test_bad_input_says_expected_and_got() -> None:
    network = CONFIG.build()
    context = torch.randn(2, 16, 5)
    with pytest.raises(ValueError, match=r"divisible by 2 .* got 15x16"):
        network(torch.randn(2, 3, 15, 16), T, context=context)
    with pytest.raises(ValueError, match="expected 3 input channels, got 4"):
        network(torch.randn(2, 4, 16, 16), T, context=context)
    with pytest.raises(ValueError, match="expected a context of width 16, got none"):
        network(torch.randn(2, 3, 16, 16), T)
    with pytest.raises(ValueError, match=r"expected a context \[batch, 16, length\], got \(2, 9, 5\)"):
        network(torch.randn(2, 3, 16, 16), T, context=torch.randn(2, 9, 5))
