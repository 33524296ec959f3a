import math

import pytest
import torch

from models.clip_heads import clip_loss
from models.config import ClipHeadsConfig
from tests.models.tiny import CLIP_HEADS, unit


def test_embeddings_have_unit_norm_whatever_the_scale_of_the_features() -> None:
    heads = CLIP_HEADS.build().eval()
    for scale in (1e-2, 1e3):
        image, text = (
            heads.encode_image(torch.randn(5, 24) * scale),
            heads.encode_text(torch.randn(5, 12) * scale),
        )
        torch.testing.assert_close(image.norm(dim=1), torch.ones(5))
        torch.testing.assert_close(text.norm(dim=1), torch.ones(5))


def test_loss_of_matched_unrelated_and_swapped_pairs() -> None:
    basis, scale = torch.eye(8), torch.tensor(100.0)
    assert float(clip_loss(basis, basis, scale)) == pytest.approx(0, abs=1e-6)
    assert float(clip_loss(basis, basis.roll(1, 0), scale)) == pytest.approx(100, rel=1e-4)
    assert float(clip_loss(basis, basis, torch.tensor(0.0))) == pytest.approx(math.log(8))


def test_the_loss_is_symmetric() -> None:
    a, b = unit(6, 1), unit(6, 2)
    torch.testing.assert_close(clip_loss(a, b, torch.tensor(10.0)), clip_loss(b, a, torch.tensor(10.0)))


def test_heads_learn_pairs_and_the_temperature_stays_bounded() -> None:
    torch.manual_seed(0)
    heads = ClipHeadsConfig(image_dim=24, text_dim=12, dim=16, dropout=0.1).build()
    latent, to_image, to_text = torch.randn(300, 8), torch.randn(8, 24), torch.randn(8, 12)
    image, text = latent @ to_image, latent @ to_text
    optimiser = torch.optim.Adam(heads.parameters(), lr=1e-2)
    for _ in range(150):
        loss = clip_loss(heads.encode_image(image[:256]), heads.encode_text(text[:256]), heads.logit_scale)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    heads.eval()
    similarity = heads.encode_text(text[256:]) @ heads.encode_image(image[256:]).T
    recall = (similarity.argmax(dim=1) == torch.arange(44)).double().mean()
    assert float(recall) > 0.8
    with torch.no_grad():
        heads.log_scale.fill_(50.0)
    assert heads.logit_scale.item() == 100


def test_features_of_another_tower_are_refused() -> None:
    with pytest.raises(ValueError, match="text features of width 12, got 24"):
        CLIP_HEADS.build().encode_text(torch.randn(2, 24))


def test_weights_count_pairs_as_often_as_they_say() -> None:
    image, text = torch.randn(6, 4), torch.randn(6, 4)
    scale, ones = torch.tensor(3.0), torch.ones(6)
    torch.testing.assert_close(clip_loss(image, text, scale, ones), clip_loss(image, text, scale))
    heavy = clip_loss(image, text, scale, 6 * torch.eye(6)[2])
    logits = scale * image @ text.T
    alone = -(logits.log_softmax(dim=1)[2, 2] + logits.log_softmax(dim=0)[2, 2]) / 2
    torch.testing.assert_close(heavy, alone)
