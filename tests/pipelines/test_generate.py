"""Generation: the picture of (prompt, seed, index) is one picture, and says what made it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.store import Artifact
from pipelines.cascade_io import CascadeError, read_cascade, write_cascade
from pipelines.generate import generate
from tests.models.tiny import randomised
from workflows.cli.main import run_cli


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_a_picture_does_not_depend_on_what_else_is_asked_for(tmp_path: Path, model: Artifact) -> None:
    whole = generate(model.path, ["red heart", "a cat"], n=3, seed=5, out_dir=tmp_path / "a", batch=3)
    parts = generate(model.path, ["a cat", "red heart"], n=2, seed=5, out_dir=tmp_path / "b", batch=1)
    assert len(whole) == 7 and len(parts) == 5
    for path in parts[:-1]:
        other = tmp_path / "a" / path.name
        # Kernels differ in the last bits by batch size, hence a level here and there.
        assert np.abs(pixels(path) - pixels(other)).max() <= 1, path.name
    assert np.abs(pixels(whole[0]) - pixels(whole[1])).max() > 10, "another index, another picture"


def test_the_same_call_gives_the_same_bytes(tmp_path: Path, model: Artifact) -> None:
    first, second = (
        generate(model.path, ["red heart"], n=2, seed=1, out_dir=tmp_path / name) for name in ("a", "b")
    )
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_model_without_a_prior_draws_from_text_alone(
    tmp_path: Path, model: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    cascade = read_cascade(model.path)
    config = cascade.model.config
    glide = dataclasses.replace(
        config,
        prior=None,
        prior_diffusion=None,
        decoder=dataclasses.replace(config.decoder, embedding_dim=None),
    )
    write_cascade(
        tmp_path / "glide",
        randomised(glide.build()),
        sampling=cascade.sampling,
        encoder=cascade.encoder,
        encoder_identity=cascade.encoder_identity,
        heads=cascade.heads,
    )
    assert not (tmp_path / "glide" / "prior.safetensors").exists()
    heart, cat, _ = generate(tmp_path / "glide", ["red heart", "a cat"], out_dir=tmp_path / "out")
    assert (pixels(heart) != pixels(cat)).any(), "another prompt, another picture"
    assert run_cli(["vary", str(heart), "--model", str(tmp_path / "glide"), "--out", str(tmp_path)]) == 2
    assert "embedding" in capsys.readouterr().err


def test_pictures_say_what_made_them(tmp_path: Path, model: Artifact) -> None:
    path, grid = generate(model.path, ["ein rotes Herz ♥"], seed=3, out_dir=tmp_path)
    picture = Image.open(path)
    assert picture.size == (64, 64)
    assert picture.text == {  # type: ignore[attr-defined]
        "unclip:prompt": "ein rotes Herz ♥",
        "unclip:seed": "3",
        "unclip:index": "0",
        "unclip:model": model.summary["model"],
    }
    assert grid.name == "grid.png"


def test_prompts_are_refused_before_anything_is_drawn(tmp_path: Path, model: Artifact) -> None:
    with pytest.raises(ValueError, match="prompt too long: the model reads 32 tokens"):
        generate(model.path, ["a cat", "very " * 40 + "long"], out_dir=tmp_path / "out")
    with pytest.raises(ValueError, match="empty"):
        generate(model.path, ["  "], out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_guidance_and_steps_override_the_models_own(tmp_path: Path, model: Artifact) -> None:
    own = generate(model.path, ["a cat"], out_dir=tmp_path / "own")
    same = generate(model.path, ["a cat"], out_dir=tmp_path / "same", guidance=2.0)
    other = generate(model.path, ["a cat"], out_dir=tmp_path / "other", guidance=1.0, steps=5)
    assert own[0].read_bytes() == same[0].read_bytes()
    assert own[0].read_bytes() != other[0].read_bytes()


def test_more_steps_than_the_process_has_are_refused_before_anything_is_drawn(
    tmp_path: Path, model: Artifact, capsys: pytest.CaptureFixture[str]
) -> None:
    drawing = ["generate", "a cat", "--steps", "51", "--model", str(model.path), "--out"]
    assert run_cli([*drawing, str(tmp_path / "out")]) == 2
    assert "sampling.prior.steps" in (told := capsys.readouterr().err) and "but 50 steps" in told
    assert not (tmp_path / "out").exists()


def test_another_encoder_than_in_training_is_refused(tmp_path: Path, model: Artifact) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model.path, copy)
    description = json.loads((copy / "cascade.json").read_bytes())
    description["encoder_identity"]["weights"]["text"] = "0" * 64
    (copy / "cascade.json").write_text(json.dumps(description))
    with pytest.raises(CascadeError, match="another encoder 'lit' than the one installed: weights differ"):
        generate(copy, ["a cat"], out_dir=tmp_path / "out")
