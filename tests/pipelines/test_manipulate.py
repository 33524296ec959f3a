"""Variations, interpolations and text differences with a tiny model and the real encoder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.store import Artifact
from pipelines.generate import GenerateError, Sampler
from pipelines.manipulate import interpolate, read_picture, text_diff, vary
from tests.tiny import emoji_images
from workflows.cli.main import run_cli

STEPS = 10


@pytest.fixture(scope="module")
def sampler(model: Artifact) -> Sampler:
    return Sampler.load(model.path)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(emoji_images(1)[0][0])).convert("RGB"))


def test_variations_differ_and_without_noise_they_do_not(sampler: Sampler, picture: np.ndarray) -> None:
    drawn = vary(sampler, picture, count=2, eta=1.0, steps=STEPS)
    assert [stage.shape for stage in drawn[0]] == [(16, 16, 3), (32, 32, 3), (64, 64, 3)]
    assert not np.array_equal(drawn[0][0], drawn[1][0])
    still = vary(sampler, picture, count=2, eta=0.0, steps=STEPS)
    assert np.array_equal(still[0][0], still[1][0])


def test_an_interpolation_begins_and_ends_with_its_images(sampler: Sampler, picture: np.ndarray) -> None:
    other = 255 - picture
    path = interpolate(sampler, picture, other, count=3, steps=STEPS)
    for end, image in ((path[0], picture), (path[2], other)):
        alone = vary(sampler, image, count=1, eta=0.0, steps=STEPS)[0]
        assert np.abs(end[0].astype(int) - alone[0]).max() <= 1


def test_a_text_difference_begins_with_the_image(sampler: Sampler, picture: np.ndarray) -> None:
    path = text_diff(sampler, picture, "a blue cat", "a cat", count=2, most=0.5, steps=STEPS)
    alone = vary(sampler, picture, count=2, eta=0.0, steps=STEPS)
    assert np.array_equal(path[0][0], alone[0][0])
    assert not np.array_equal(path[1][0], path[0][0])
    with pytest.raises(GenerateError, match="two texts that differ"):
        text_diff(sampler, picture, "a cat", "a cat", count=2, steps=STEPS)


def test_what_is_transparent_is_white_and_what_is_no_image_is_told(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png") == 255).all()
    (tmp_path / "text.png").write_text("no image")
    for name in ("text.png", "gone.png"):
        with pytest.raises(GenerateError, match=name):
            read_picture(tmp_path / name)


def test_the_commands_write_pictures(
    tmp_path: Path, model: Artifact, picture: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "a.png"
    Image.fromarray(picture).save(image)
    common = ["-n", "2", "--steps", "4", "--out", str(tmp_path / "out"), "--model", str(model.path)]
    for arguments in (
        ["vary", str(image)],
        ["interpolate", str(image), str(image)],
        ["textdiff", str(image), "a blue cat", "--from", "a cat"],
    ):
        assert run_cli([*arguments, *common]) == 0
        paths = capsys.readouterr().out.split()
        assert len(paths) == 3 and all(Image.open(path).height == 64 for path in paths)
    assert run_cli(["vary", str(tmp_path / "gone.png"), *common]) == 2
    assert "gone.png: cannot be read as an image" in capsys.readouterr().err
