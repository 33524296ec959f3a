import pytest
import torch

from models.embedding_codec import EmbeddingCodec, fit_codec
from tests.models.tiny import DIM, unit

BUCKETS = 64
IMAGES, TEXTS = unit(500, 1), unit(500, 2)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(IMAGES.split(120), TEXTS.split(120), strict=True))


CODEC = fit_codec(batches, keep=1.0, buckets=BUCKETS)


def test_the_error_of_a_round_trip_is_that_of_uniform_buckets() -> None:
    """The axes are orthonormal: the embedding's error is its coefficients', width^2 / 12 each."""
    back = CODEC.decode(CODEC.encode(IMAGES))
    error = (back - IMAGES).square().sum(dim=1).mean()
    width = (CODEC.high - CODEC.low) / BUCKETS
    assert float(error) == pytest.approx(float((width**2 / 12).sum()), rel=0.05)
    coefficients = CODEC.pca.project(IMAGES)
    worst = (CODEC.pca.project(back) - coefficients).abs().amax(dim=0)
    assert bool((worst <= width / 2 + 1e-6).all())


def test_no_training_sample_is_clipped_and_others_go_to_the_ends() -> None:
    tokens = CODEC.encode(IMAGES)
    assert tokens.shape == (500, DIM)
    assert int(tokens.amin()) == 0 and int(tokens.amax()) == BUCKETS - 1
    far = CODEC.pca.reconstruct(torch.full((1, DIM), 100.0))
    assert bool((CODEC.encode(far) == BUCKETS - 1).all())


def test_tokens_are_a_fixed_point() -> None:
    tokens = CODEC.encode(IMAGES)
    assert torch.equal(CODEC.encode(CODEC.decode(tokens)), tokens)


def test_the_first_tokens_alone_are_the_leading_components() -> None:
    tokens = CODEC.encode(IMAGES)
    part = CODEC.pca.project(CODEC.decode(tokens[:, :5]))
    torch.testing.assert_close(part[:, :5], CODEC.pca.project(CODEC.decode(tokens))[:, :5])
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
    copy.load_state_dict(fit_codec(lambda: [(IMAGES, TEXTS)], keep=DIM, buckets=BUCKETS).state_dict())
    assert torch.equal(copy.encode(IMAGES), CODEC.encode(IMAGES))
    with pytest.raises(ValueError, match="at least 2 embeddings, got none"):
        fit_codec(list)
