"""Bits per token: a prior that knows nothing needs them all, marginals cost their entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.ar_prior import AutoregressivePrior
from models.embedding_codec import EmbeddingCodec
from models.pca import Pca
from pipelines.evaluate.code_length import evaluate_code_length, marginal_bits, smoothed
from pipelines.train.stream import Batch
from tests.tiny_cascade import AR_PRIOR, CONTEXT, DIM

K, BUCKETS = AR_PRIOR.components, AR_PRIOR.buckets


def embeddings(n: int, seed: int) -> Batch:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(n, DIM)) * np.linspace(2, 1, DIM)
    unit = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return Batch(
        keys=tuple(map(str, range(n))),
        captions=("",) * n,
        positions=np.arange(n),
        weight=np.ones(n, np.float32),
        image_embedding=unit,
        text_embedding=np.roll(unit, 1, axis=1),
        tokens=np.ones((n, CONTEXT), np.int64),
        mask=np.ones((n, CONTEXT), bool),
        image_u8=None,
    )


@pytest.fixture(scope="module")
def prior() -> AutoregressivePrior:
    """Untrained, with a codec of 400 embeddings."""
    train = embeddings(400, 1)
    images, texts = torch.from_numpy(train.image_embedding), torch.from_numpy(train.text_embedding)
    torch.manual_seed(0)
    network = AR_PRIOR.build().eval()
    network.codec = EmbeddingCodec.fit(Pca.fit([images], K), [(images, texts)], buckets=BUCKETS)
    return network


def test_an_untrained_prior_needs_every_bit_of_the_tokens_and_the_dot_products_own(
    prior: AutoregressivePrior,
) -> None:
    test = embeddings(50, 0)
    figures = evaluate_code_length(prior, test, embeddings(400, 1), seed=0, batch=7)
    dot = prior.codec.encode_dot(*map(torch.from_numpy, (test.image_embedding, test.text_embedding)))
    dot_bits = float(-smoothed(prior.codec.dot_counts[None])[0, dot].log2().mean())
    assert figures["bits_trained"].value == pytest.approx(math.log2(BUCKETS) + dot_bits / K, rel=1e-6)
    assert figures["bits_untrained"].value == pytest.approx(math.log2(BUCKETS) * (K + 1) / K)
    # The marginals know where the components lie; this prior does not.
    assert figures["bits_below_marginal"].high < 0 < figures["bits_below_untrained"].low
    assert figures["bits_below_marginal_in_standard_errors"].value < -3


def test_marginals_cost_the_entropy_of_the_tokens(prior: AutoregressivePrior) -> None:
    """With many samples what is smoothed is nothing, and on the training data the cost is the entropy."""
    images = torch.from_numpy(embeddings(60_000, 2).image_embedding)
    tokens = prior.codec.encode(images)
    p = torch.stack([torch.bincount(t, minlength=BUCKETS) / len(tokens) for t in tokens.T]).double()
    entropy = -(p * p.clamp(min=1e-30).log2()).sum(dim=1).mean()
    bits = marginal_bits(prior.codec, images, images)
    assert bits.mean() == pytest.approx(float(entropy), rel=1e-3)


def test_smoothing_leaves_distributions_and_no_bucket_impossible() -> None:
    counts = torch.zeros(2, 64, dtype=torch.int64)
    counts[0, 10], counts[1, 20:30] = 5, 100
    p = smoothed(counts)
    torch.testing.assert_close(p.sum(dim=1), torch.ones(2).double())
    assert float(p.min()) > 0
    torch.testing.assert_close(p[1, 20:30], torch.full((10,), 0.1).double(), rtol=0.1, atol=0)
    assert p[0, 11] > p[0, 20]
