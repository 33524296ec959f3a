"""The smallest configurations that still have every part, for tests."""

import dataclasses
from typing import TypeVar

import torch

from models.config import (
    ARPriorConfig,
    ClipHeadsConfig,
    DecoderConfig,
    DiffusionConfig,
    PriorConfig,
    UnCLIPConfig,
    UpsamplerConfig,
)
from models.embedding_codec import EmbeddingCodec
from models.pca import Pca

DIM, CONTEXT, VOCAB = 16, 6, 50

PRIOR = PriorConfig(embedding_dim=DIM, context=CONTEXT, width=32, layers=2, heads=2, vocab_size=VOCAB)
AR_PRIOR = ARPriorConfig(
    embedding_dim=DIM,
    components=5,
    vocab_size=VOCAB,
    text_context=CONTEXT,
    text_width=16,
    text_layers=1,
    text_heads=2,
    context=8,
    width=32,
    layers=2,
    heads=2,
    buckets=16,
)
DECODER = DecoderConfig(
    embedding_dim=DIM,
    image_size=16,
    model_channels=16,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(8,),
    num_head_channels=16,
    vocab_size=VOCAB,
    text_context=CONTEXT,
    text_width=16,
    text_layers=1,
    text_heads=2,
    norm_groups=8,
)
UPSAMPLER = UpsamplerConfig(
    image_size=32,
    low_res_size=16,
    model_channels=16,
    channel_mult=(1, 2),
    num_res_blocks=1,
    learned_variance=False,
    interpolation="bicubic",
    residual=True,
    norm_groups=8,
    patch_size=2,
)
CLIP_HEADS = ClipHeadsConfig(image_dim=24, text_dim=12, dim=DIM, hidden=32, dropout=0.1)
UNCLIP = UnCLIPConfig(
    prior=PRIOR,
    prior_diffusion=DiffusionConfig(steps=100, prediction="x0", variance="fixed_small"),
    decoder=DECODER,
    decoder_diffusion=DiffusionConfig(steps=100),
    upsamplers=(UPSAMPLER,),
    upsampler_diffusions=(DiffusionConfig(steps=100, prediction="x0", variance="fixed_small"),),
)
AR_UNCLIP = dataclasses.replace(UNCLIP, prior=AR_PRIOR, prior_diffusion=None)

NetworkT = TypeVar("NetworkT", bound=torch.nn.Module)


def randomised(network: NetworkT, seed: int = 0, scale: float = 0.1) -> NetworkT:
    """Every parameter drawn anew: zero-initialised layers would hide whatever comes before them."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) * scale)
    return network.eval()


def fitted_codec(config: ARPriorConfig, images: torch.Tensor, texts: torch.Tensor) -> EmbeddingCodec:
    """The codec of these embeddings, [n, DIM] each."""
    return EmbeddingCodec.fit(Pca.fit([images], config.components), [(images, texts)], buckets=config.buckets)


def prompts(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random token ids of these lengths and their mask."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCAB, (len(lengths), CONTEXT), generator=g)
    return tokens, torch.arange(CONTEXT)[None] < torch.tensor(lengths)[:, None]


def unit(count: int, seed: int = 0, dim: int = DIM) -> torch.Tensor:
    """Random embeddings of unit norm."""
    x = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=-1)
