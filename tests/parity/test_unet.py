"""Our U-Net against OpenAI's published one (`guided-diffusion-sdk`): same weights, same inputs."""

from typing import Any

import pytest
import torch
from guided_diffusion.unet import SuperResModel, UNetModel

from models.config import UNetConfig, UpsamplerConfig

BASE = {"image_size": 16, "model_channels": 32, "channel_mult": (1, 2, 3), "num_res_blocks": 2}

CASES = {
    "decoder": UNetConfig(**BASE, attention_resolutions=(8, 4), num_head_channels=16),
    "imagenet64": UNetConfig(
        **{**BASE, "num_res_blocks": 3}, attention_resolutions=(16, 8, 4), num_head_channels=32
    ),
    "learned resampling": UNetConfig(
        **BASE, attention_resolutions=(8,), num_head_channels=16, resblock_updown=False
    ),
    "additive timestep": UNetConfig(
        **BASE, attention_resolutions=(4,), num_head_channels=32, use_scale_shift_norm=False, out_channels=3
    ),
    "middle attention only": UNetConfig(**BASE, num_head_channels=16),
}


def reference(config: UNetConfig, cls: type = UNetModel, **extra: Any) -> torch.nn.Module:
    return cls(
        image_size=config.image_size,
        in_channels=3,
        model_channels=config.model_channels,
        out_channels=config.out_channels,
        num_res_blocks=config.num_res_blocks,
        attention_resolutions=tuple(config.image_size // side for side in config.attention_resolutions),
        channel_mult=config.channel_mult,
        num_head_channels=config.num_head_channels,
        use_scale_shift_norm=config.use_scale_shift_norm,
        resblock_updown=config.resblock_updown,
        **extra,
    )


def randomise(network: torch.nn.Module) -> None:
    """Weights that keep the activations near unit variance: zero-initialised layers, or norms of small gain,
    would hide a difference behind them."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            draw = torch.randn(parameter.shape, generator=g)
            if parameter.ndim > 1:
                parameter.copy_(draw / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * draw + name.endswith("weight"))


def gradients(network: torch.nn.Module, output: torch.Tensor) -> dict[str, torch.Tensor]:
    (output**2).mean().backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_the_published_unet(name: str) -> None:
    config = CASES[name]
    theirs, ours = reference(config), config.build()
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, 977])
    a, b = theirs(x, t), ours(x, t)
    assert a.std() > 0.3
    torch.testing.assert_close(b, a, rtol=0, atol=1e-5)
    theirs_grad, ours_grad = gradients(theirs, a), gradients(ours, b)
    assert theirs_grad.keys() == ours_grad.keys()
    for key, value in theirs_grad.items():
        torch.testing.assert_close(ours_grad[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_upsampler_without_middle_attention_equals_super_resolution_with_its_attention_zeroed() -> None:
    """The published class always has a middle attention; with its projection at zero it is the identity."""
    config = UpsamplerConfig(
        image_size=32, low_res_size=8, model_channels=32, channel_mult=(1, 2), num_res_blocks=1
    )
    theirs, ours = reference(config.unet, SuperResModel), config.build()
    randomise(theirs)
    torch.nn.init.zeros_(theirs.middle_block[1].proj_out.weight)
    torch.nn.init.zeros_(theirs.middle_block[1].proj_out.bias)
    state = {
        key.replace("middle_block.2", "middle_block.1"): value
        for key, value in theirs.state_dict().items()
        if "middle_block.1" not in key
    }
    ours.unet.load_state_dict(state, strict=True)
    x, low_res, t = torch.randn(2, 3, 32, 24), torch.randn(2, 3, 8, 6), torch.tensor([0, 500])
    torch.testing.assert_close(ours(x, t, low_res), theirs(x, t, low_res=low_res), rtol=0, atol=1e-5)


def test_table_3_parameter_counts() -> None:
    """On the meta device: the sizes unCLIP's Table 3 states for the upsamplers, and GLIDE for its U-Net."""
    with torch.device("meta"):
        decoder = UNetConfig(
            image_size=64,
            model_channels=512,
            channel_mult=(1, 2, 3, 4),
            num_res_blocks=3,
            attention_resolutions=(32, 16, 8),
            encoder_channels=2048,
        ).build()
        first = UpsamplerConfig(
            image_size=256, low_res_size=64, model_channels=320, channel_mult=(1, 2, 3, 4), num_res_blocks=3
        ).build()
        second = UpsamplerConfig(
            image_size=1024,
            low_res_size=256,
            model_channels=192,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
        ).build()
    counts = [sum(p.numel() for p in network.parameters()) / 1e9 for network in (decoder, first, second)]
    assert counts == pytest.approx([2.238, 0.730, 0.282], rel=0.01)
