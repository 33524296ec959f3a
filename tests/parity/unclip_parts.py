"""The parts of diffusers' unCLIP pipeline at a tiny size, and our configurations of the same."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.config import DecoderConfig, DiffusionConfig, PriorConfig, UnCLIPConfig, UpsamplerConfig

DIM, CONTEXT = 16, 7

PRIOR = PriorConfig(
    embedding_dim=DIM,
    context=CONTEXT,
    width=32,
    layers=3,
    heads=4,
    text_features_dim=DIM,
    null_text="given",
    normalisation="standardised",
)
DECODER = DecoderConfig(
    embedding_dim=DIM,
    image_size=16,
    model_channels=16,
    channel_mult=(1, 2, 3),
    num_res_blocks=2,
    attention_resolutions=(8, 4),
    num_head_channels=8,
    image_tokens=4,
    text_context=CONTEXT,
    text_width=24,
    text_features_dim=DIM,
    text_pooled_dim=DIM,
    null_text="given",
    embedding_scale=1.0,
    norm_groups=8,
)
UPSAMPLER = UpsamplerConfig(
    image_size=32,
    low_res_size=16,
    model_channels=16,
    channel_mult=(1, 2),
    num_res_blocks=1,
    learned_variance=False,
    use_scale_shift_norm=False,
    last_step_unet=True,
    interpolation="bicubic_antialias",
    norm_groups=8,
)
CASCADE = UnCLIPConfig(
    prior=PRIOR,
    prior_diffusion=DiffusionConfig(prediction="x0", variance="fixed_small", clip_range=5.0),
    decoder=DECODER,
    decoder_diffusion=DiffusionConfig(),
    upsamplers=(UPSAMPLER,),
    upsampler_diffusions=(DiffusionConfig(variance="fixed_small"),),
)

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def randomise(network: NetworkT, seed: int = 0) -> NetworkT:
    """Weights that keep the activations near unit variance: zero-initialised layers, or norms of small gain,
    would hide a difference behind them."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            draw = torch.randn(parameter.shape, generator=g)
            if parameter.ndim > 1:
                parameter.copy_(draw / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * draw + name.endswith("weight"))
        for name, buffer in network.named_buffers():
            if name.endswith(("embedding_mean", "embedding_std")):
                buffer.copy_(torch.rand(buffer.shape, generator=g) + 0.5)
    return network.eval()


def theirs(cls: Any, values: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """diffusers' class of this configuration, with these weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = cls(**{key: value for key, value in values.items() if key != "_class_name"})
    network.load_state_dict(state, strict=True)
    return network.eval()


def part(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors below `name.`, without it."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def gradients(network: nn.Module, output: Tensor) -> dict[str, Tensor]:
    (output**2).mean().backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in network.named_parameters()}


def text_of(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features, mask and pooled vector, as a frozen CLIP would give them."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(CONTEXT)[None] < torch.tensor(lengths)[:, None]
    n = len(lengths)
    return torch.randn(n, CONTEXT, DIM, generator=g), mask, torch.randn(n, DIM, generator=g)
