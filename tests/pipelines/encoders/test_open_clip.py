"""open_clip from a local checkpoint: a real, very small CLIP with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.encoders.open_clip import open_clip_identity, split_spec
from pipelines.encoders.registry import encoder_facts, load_encoder

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    import open_clip

    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "Tiny-Test-CLIP.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("Tiny-Test-CLIP").state_dict(), folder / "tiny.pt")
    return f"Tiny-Test-CLIP/{folder / 'tiny.pt'}"


def test_unit_norm_and_independent_of_neighbours(spec: str) -> None:
    encoder = load_encoder(f"open_clip:{spec}")
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, size, dtype=np.uint8) for size in ((40, 60, 3), (33, 32, 3))]
    captions = ["a red heart", "a blue heart"]
    for encode, items in ((encoder.encode_images, images), (encoder.encode_texts, captions)):
        vectors = encode(items)  # type: ignore[operator]
        assert vectors.shape == (2, 16) and vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(vectors[1:], encode(items[1:]))  # type: ignore[operator]


def test_identity_follows_the_weights(spec: str, tmp_path: Path) -> None:
    model, path = split_spec(spec)
    other = tmp_path / "other.pt"
    state = torch.load(path, weights_only=True)
    state["logit_scale"] += 1
    torch.save(state, other)
    ours, theirs = load_encoder(f"open_clip:{spec}"), load_encoder(f"open_clip:{model}/{other}")
    assert ours.identity["state_sha256"] != theirs.identity["state_sha256"]
    assert open_clip_identity(spec)["weights"] != open_clip_identity(f"{model}/{other}")["weights"]
    assert ours.identity["dimension"] == 16
    assert ours.identity["tokenizer"]["context"] == 16


def test_tag_or_path() -> None:
    assert split_spec("ViT-B-32/laion2b_s34b_b79k") == ("ViT-B-32", "laion2b_s34b_b79k")
    with pytest.raises(ValueError, match="expected open_clip:<model>/<pretrained or path>"):
        encoder_facts("open_clip:ViT-B-32")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at /nowhere/b32\.pt"):
        encoder_facts("open_clip:ViT-B-32//nowhere/b32.pt")


def test_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="knows no model 'ViT-Q-7'"):
        load_encoder("open_clip:ViT-Q-7/openai")


def test_heads_belong_to_lit(spec: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes no heads"):
        load_encoder(f"open_clip:{spec}", heads=tmp_path)
