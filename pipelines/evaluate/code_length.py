"""How many bits an autoregressive prior needs for a held-out image embedding, beside what knows no caption.

A code length, in bits per token: -log2 p of the embedding's tokens given the caption, its embedding and the
dot product of both, and, as a decoder has only the caption, -log2 p of that dot product by its distribution
in training.  So all three columns code the same tokens, and differences are paired:

- untrained: the same class, freshly initialised.  Its last layer is zero: every bucket equally likely.
- marginal: each token by its own distribution in training, whatever the caption and the other tokens.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from models.ar_prior import AutoregressivePrior
from models.embedding_codec import EmbeddingCodec
from pipelines.evaluate.held_out import Prompts
from pipelines.evaluate.losses import below_in_standard_errors
from pipelines.evaluate.statistics import Figure, mean, paired_difference
from pipelines.train.stream import Batch


def evaluate_code_length(
    prior: AutoregressivePrior, test: Batch, train: Batch, *, seed: int, batch: int
) -> dict[str, Figure]:
    """Bits per token of the trained prior and of both baselines on `test`, and how far it lies below them.

    `train` only serves the marginal.
    """
    codec, components = prior.codec, prior.config.components
    images = torch.from_numpy(test.image_embedding)
    bits = {
        "trained": trained_bits(prior, test, batch=batch),
        "untrained": np.full(len(test), (components + 1) * math.log2(codec.buckets) / components),
        "marginal": marginal_bits(codec, images, torch.from_numpy(train.image_embedding)),
    }
    figures = {
        f"bits_{name}": mean(values, seed=seed, what=f"bits per token of {components}, {name}")
        for name, values in bits.items()
    }
    for name in ("untrained", "marginal"):
        figures[f"bits_below_{name}"] = paired_difference(
            bits[name], bits["trained"], seed=seed, what=f"bits per token, {name} minus trained"
        )
        figures[f"bits_below_{name}_in_standard_errors"] = below_in_standard_errors(
            bits["trained"], bits[name], name
        )
    return figures


@torch.inference_mode()
def trained_bits(prior: AutoregressivePrior, test: Batch, *, batch: int) -> Float[np.ndarray, " n"]:
    """Of each sample, with every condition given."""
    prompts, images = Prompts.of(test), torch.from_numpy(test.image_embedding)
    rows = []
    for start in range(0, len(test), batch):
        part = prompts.take(slice(start, start + batch))
        z = images[start : start + batch]
        nats = prior(z, part.tokens, part.mask, part.text_embedding).double().sum(dim=1)
        dot = prior.codec.encode_dot(z, part.text_embedding)
        rows.append(nats - smoothed(prior.codec.dot_counts[None]).log()[0, dot])
    total: np.ndarray = torch.cat(rows).numpy()
    return total / (math.log(2) * prior.config.components)


def marginal_bits(
    codec: EmbeddingCodec, images: Float[Tensor, "n d"], train: Float[Tensor, "m d"]
) -> Float[np.ndarray, " n"]:
    """Of each sample, by the tokens' separate distributions in `train`; it needs no dot product."""
    counts = torch.stack([torch.bincount(c, minlength=codec.buckets) for c in codec.encode(train).T])
    nats = -smoothed(counts).log().gather(1, codec.encode(images).T)
    bits: np.ndarray = nats.mean(dim=0).numpy() / math.log(2)
    return bits


def smoothed(counts: Tensor) -> Float[Tensor, "k buckets"]:
    """Distributions from counts [k, buckets], half a count a bucket added (Krichevsky & Trofimov, 1981).

    What is added is spread as a normal of the counts' own mean and variance: neighbouring buckets are alike,
    and a small training split leaves most of them empty.
    """
    buckets = counts.shape[1]
    total = counts.sum(dim=1, keepdim=True).double()
    place = torch.arange(buckets, dtype=torch.float64)
    center = (counts * place).sum(dim=1, keepdim=True) / total
    variance = (counts * (place - center).square()).sum(dim=1, keepdim=True) / total + 1
    normal = (-0.5 * (place - center).square() / variance).exp()
    # A little everywhere: what lies far out may come all the same.
    prior = 0.99 * normal / normal.sum(dim=1, keepdim=True) + 0.01 / buckets
    return (counts + 0.5 * buckets * prior) / (total + 0.5 * buckets)
