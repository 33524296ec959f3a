import pytest
import torch

from models.embedding_codec import EmbeddingCodec
from models.pca import Pca
from tests.models.tiny import DIM, unit

BUCKETS = 64
IMAGES, TEXTS = unit(500, 1), unit(500, 2)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(IMAGES.split(120), TEXTS.split(120), strict=True))


PCA = Pca.fit([IMAGES])
CODEC = EmbeddingCodec.fit(PCA, batches(), buckets=BUCKETS)


def test_the_error_of_a_round_trip_is_that_of_uniform_buckets() -> None:
    """The axes are orthonormal: the embedding's error is its coefficients', width^2 / 12 each."""
    back = CODEC.decode(CODEC.encode(IMAGES))
    error = (back - IMAGES).square().sum(dim=1).mean()
    width = (CODEC.high - CODEC.low) / BUCKETS
    assert float(error) == pytest.approx(float((width**2 / 12).sum()), rel=0.05)
    coefficients = CODEC.pca(IMAGES)
    worst = (CODEC.pca(back) - coefficients).abs().amax(dim=0)
    assert bool((worst <= width / 2 + 1e-6).all())


def test_no_training_sample_is_clipped_and_others_go_to_the_ends() -> None:
    tokens = CODEC.encode(IMAGES)
    assert tokens.shape == (500, DIM)
    assert int(tokens.amin()) == 0 and int(tokens.amax()) == BUCKETS - 1
    far = CODEC.pca.inverse(torch.full((1, DIM), 100.0))
    assert bool((CODEC.encode(far) == BUCKETS - 1).all())


def test_tokens_are_a_fixed_point() -> None:
    tokens = CODEC.encode(IMAGES)
    assert torch.equal(CODEC.encode(CODEC.decode(tokens)), tokens)


def test_the_first_tokens_alone_are_the_leading_components() -> None:
    tokens = CODEC.encode(IMAGES)
    part = CODEC.pca(CODEC.decode(tokens[:, :5]))
    torch.testing.assert_close(part[:, :5], CODEC.pca(CODEC.decode(tokens))[:, :5])
    assert float(part[:, 5:].abs().max()) < 1e-5


def test_dot_products_are_drawn_from_the_top_half_of_training() -> None:
    buckets = CODEC.encode_dot(IMAGES, TEXTS)
    assert torch.equal(torch.bincount(buckets, minlength=BUCKETS), CODEC.dot_counts)
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    drawn = CODEC.top_half(u)
    top = buckets.sort().values[250:]
    # 500 even quantiles of the upper half are its 250 samples, two each.
    shares = torch.bincount(drawn, minlength=BUCKETS) / 10_000
    torch.testing.assert_close(shares, torch.bincount(top, minlength=BUCKETS) / 250, rtol=0, atol=2e-3)
    assert int(drawn.max()) == int(buckets.max())


def test_a_codec_lives_in_its_tensors_and_the_batches_do_not_matter() -> None:
    copy = EmbeddingCodec(DIM, DIM, BUCKETS)
    with pytest.raises(ValueError, match="not fitted"):
        copy.top_half(torch.zeros(1))
    copy.load_state_dict(EmbeddingCodec.fit(PCA, [(IMAGES, TEXTS)], buckets=BUCKETS).state_dict())
    assert torch.equal(copy.encode(IMAGES), CODEC.encode(IMAGES))
    with pytest.raises(ValueError, match="expected embeddings, got none"):
        EmbeddingCodec.fit(PCA, [])
    with pytest.raises(ValueError, match="embeddings of width 16, got 8"):
        copy.encode(unit(2, dim=8))


def test_low_rank_embeddings_lose_only_what_buckets_lose() -> None:
    """Three directions of a sphere of 16: three tokens are enough, to half a bucket each."""
    axes = torch.linalg.qr(torch.randn(DIM, 3, generator=torch.Generator().manual_seed(0))).Q.T
    images = unit(400, 3, dim=3) @ axes
    pca = Pca.fit(images.split(50))
    assert pca.components_for(0.99) == 3
    codec = EmbeddingCodec.fit(pca.first(3), [(images, images)], buckets=1024)
    back = codec.decode(codec.encode(images))
    bound = ((codec.high - codec.low) / 2048).norm()
    assert float((back - images).norm(dim=1).max()) <= float(bound) + 1e-6 < 2e-3
    assert torch.equal(codec.encode_dot(images, images), torch.full((400,), 1023))
