"""An update of prior and decoder beside dalle2-pytorch's, at equal parameter count, resolution and batch.

Both sides draw timesteps and noise, compute their own loss, go back through the network and update it by the
same AdamW.  The networks are each package's own: of equal size, not of equal shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from models.config import UnCLIPConfig
from models.prior import embedding_scale
from tests.benchmarks.alternating import Call
from tests.benchmarks.equal_size import MULTIPLES, Size

BATCH, PRIOR_BATCH = 4, 32
SIZE = Size()


def against_dalle2_pytorch(device: str, measure: Callable[[Call, Call], Any]) -> dict[str, Any]:
    """Both stages, with parameter counts; where the package is not installed, the reason instead."""
    try:
        import dalle2_pytorch
    except ImportError as error:
        return {"left_out": f"dalle2-pytorch is not here: {error}"}
    torch.manual_seed(0)
    config = SIZE.config()
    found: dict[str, Any] = {"parameters": {}}
    for name, sides in (("decoder", _decoders), ("prior", _priors)):
        (ours, our_loss), (theirs, their_loss) = sides(dalle2_pytorch, config, torch.device(device))
        found["parameters"][name] = [_count(ours), _count(theirs)]
        found[name] = measure(_update(ours, our_loss), _update(theirs, their_loss))
    return found


def _decoders(package: Any, config: UnCLIPConfig, device: torch.device) -> tuple[tuple[nn.Module, Call], ...]:
    ours = config.decoder.build().to(device)
    process = config.decoder_diffusion.build()
    side, context = SIZE.image_size, SIZE.context
    images = torch.rand(BATCH, 3, side, side, device=device)
    z = nn.functional.normalize(torch.randn(BATCH, SIZE.embedding, device=device))
    tokens = torch.ones(BATCH, context, dtype=torch.long, device=device)
    mask = torch.ones_like(tokens, dtype=torch.bool)

    def our_loss() -> torch.Tensor:
        x0 = images * 2 - 1
        t = torch.randint(process.num_steps, (BATCH,), device=device)
        noise = torch.randn_like(x0)
        drops = torch.rand(2, BATCH, device=device)
        x_t = process.q_sample(x0, t, noise)
        output = ours(x_t, t, z, tokens, mask, drops[0] < 0.1, drops[1] < 0.5)
        return process.training_losses(output, x0, x_t, t, noise).mean()

    # Their text arrives encoded: they encode none of it, ours does.
    text = torch.randn(BATCH, context, SIZE.text_width, device=device)

    def theirs_of(dim: int) -> nn.Module:
        unet = package.Unet(
            dim=dim,
            image_embed_dim=SIZE.embedding,
            text_embed_dim=SIZE.text_width,
            cond_dim=SIZE.text_width,
            dim_mults=MULTIPLES,
            num_resnet_blocks=SIZE.blocks,
            self_attn=(False, True, True, True),
            cond_on_text_encodings=True,
            max_text_len=context,
        )
        return package.Decoder(unet=unet, image_size=side, timesteps=1000)

    theirs = _nearest(theirs_of, _count(ours), range(16, 256, 8)).to(device)
    return (ours, our_loss), (theirs, lambda: theirs(images, image_embed=z, text_encodings=text))


def _priors(package: Any, config: UnCLIPConfig, device: torch.device) -> tuple[tuple[nn.Module, Call], ...]:
    # Theirs has one width, the embedding's, and embeds no tokens: ours takes features likewise.
    prior = dataclasses.replace(config.prior, vocab_size=None, text_features_dim=SIZE.embedding)
    ours, process = prior.build().to(device), config.prior_diffusion.build()
    z = nn.functional.normalize(torch.randn(2, PRIOR_BATCH, SIZE.embedding, device=device), dim=-1)
    text = torch.randn(PRIOR_BATCH, SIZE.context, SIZE.embedding, device=device)
    mask = torch.ones(PRIOR_BATCH, SIZE.context, dtype=torch.bool, device=device)

    def our_loss() -> torch.Tensor:
        x0 = z[0] * embedding_scale(SIZE.embedding)
        t = torch.randint(process.num_steps, (PRIOR_BATCH,), device=device)
        noise = torch.randn_like(x0)
        x_t = process.q_sample(x0, t, noise)
        output = ours(x_t, t, text, mask, z[1], torch.rand(PRIOR_BATCH, device=device) < 0.1)
        return process.training_losses(output, x0, x_t, t, noise).mean()

    def theirs_of(depth: int) -> nn.Module:
        network = package.DiffusionPriorNetwork(
            dim=SIZE.embedding, depth=depth, dim_head=64, heads=8, max_text_len=SIZE.context
        )
        return package.DiffusionPrior(
            net=network, image_embed_dim=SIZE.embedding, timesteps=1000, cond_drop_prob=0.1
        )

    theirs = _nearest(theirs_of, _count(ours), range(2, 16)).to(device)

    def their_loss() -> torch.Tensor:
        # It scales the embeddings it is given in place.
        return theirs(text_embed=z[1], image_embed=z[0].clone(), text_encodings=text)

    return (ours, our_loss), (theirs, their_loss)


def _nearest(build: Callable[[int], nn.Module], parameters: int, sizes: range) -> nn.Module:
    """The one of nearest parameter count."""
    with torch.device("meta"):
        counts = {size: _count(build(size)) for size in sizes}
    return build(min(counts, key=lambda size: abs(counts[size] - parameters)))


def _update(network: nn.Module, loss: Call) -> Call:
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def update() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return update


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
