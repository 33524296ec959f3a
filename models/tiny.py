"""The smallest model that still has every part: what the examples of this room run on, in a blink.

Its weights are random, so its pictures are too.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.cascade import UnCLIP
from models.config import DecoderConfig, DiffusionConfig, PriorConfig, UnCLIPConfig, UpsamplerConfig
from models.sampling import CascadeSampling, StageSampling

_X0 = DiffusionConfig(steps=50, prediction="x0", variance="fixed_small")

TINY = UnCLIPConfig(
    prior=PriorConfig(embedding_dim=16, context=6, width=16, layers=1, heads=2, vocab_size=50),
    prior_diffusion=_X0,
    decoder=DecoderConfig(
        embedding_dim=16,
        image_size=16,
        model_channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        num_head_channels=8,
        norm_groups=4,
        vocab_size=50,
        text_context=6,
        text_width=16,
        text_layers=1,
        text_heads=2,
    ),
    decoder_diffusion=DiffusionConfig(steps=50),
    upsamplers=(
        UpsamplerConfig(
            image_size=32,
            low_res_size=16,
            model_channels=8,
            channel_mult=(1, 2),
            num_res_blocks=1,
            norm_groups=4,
            learned_variance=False,
            residual=True,
        ),
    ),
    upsampler_diffusions=(_X0,),
)
"""From captions of 6 tokens and embeddings of 16 dimensions to pictures of 16 and 32 px."""

QUICK = CascadeSampling(
    prior=StageSampling(sampler="ddpm", steps=2),
    decoder=StageSampling(steps=2),
    upsamplers=(StageSampling(steps=2),),
)


def tiny_model() -> UnCLIP:
    """A model of `TINY`, in evaluation mode; its last layers are not zero, as a trained model's are not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UnCLIP(TINY)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def tiny_caption(
    count: int = 1,
) -> tuple[Int[Tensor, "{count} 6"], Bool[Tensor, "{count} 6"], Float[Tensor, "{count} 16"]]:
    """Tokens, their mask and an embedding of unit norm, as `UnCLIP.generate` takes them."""
    tokens = torch.arange(1, 7).repeat(count, 1)
    return tokens, tokens < 5, tiny_embeddings(count)


def tiny_embeddings(count: int, seed: int = 0) -> Float[Tensor, "{count} 16"]:
    """Of unit norm."""
    return F.normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)), dim=1)


def tiny_images(count: int, side: int = 16, seed: int = 0) -> Float[Tensor, "{count} 3 {side} {side}"]:
    """In [-1, 1]."""
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1
