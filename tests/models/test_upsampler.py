import dataclasses

import pytest
import torch
import torch.nn.functional as F

from models.layers import AttentionBlock
from tests.models.tiny import UPSAMPLER, randomised

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
