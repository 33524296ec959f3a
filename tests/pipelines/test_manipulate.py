"""Variations, interpolations and text differences with a tiny model and the real encoder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.store import Artifact
from pipelines.embedding_basis import basis_of_file, basis_of_root
from pipelines.generate import GenerateError, Sampler
from pipelines.manipulate import (
    inpaint,
    interpolate,
    principal,
    read_picture,
    reconstruct,
    text_diff,
    vary,
)
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


def test_a_fixed_noise_is_another_way(sampler: Sampler, picture: np.ndarray) -> None:
    fixed = interpolate(sampler, picture, 255 - picture, count=2, noise="fixed", steps=STEPS)
    turned = interpolate(sampler, picture, 255 - picture, count=2, steps=STEPS)
    assert not np.array_equal(fixed[0][0], turned[0][0])


def test_arithmetic_begins_with_the_image_too(sampler: Sampler, picture: np.ndarray) -> None:
    texts = ("a blue cat", "a cat")
    path = text_diff(sampler, picture, *texts, count=2, most=1.0, arithmetic=True, steps=STEPS)
    alone = reconstruct(sampler, picture, steps=STEPS)
    assert np.abs(path[0][0].astype(int) - alone[0][0]).max() <= 1
    assert not np.array_equal(path[1][0], path[0][0])


def test_all_components_tell_the_whole_embedding(
    sampler: Sampler, picture: np.ndarray, tmp_path: Path
) -> None:
    table = np.random.default_rng(0).normal(size=(200, 32)).astype(np.float32)
    np.save(tmp_path / "table.npy", table)
    pca = basis_of_file(tmp_path / "table.npy", 32)
    few, whole, again = principal(sampler, picture, pca, (2, 32, 32), steps=STEPS)
    assert np.array_equal(whole[0], again[0]) and not np.array_equal(few[0], whole[0])
    with pytest.raises(GenerateError, match="1 to 32 components, got 33"):
        principal(sampler, picture, pca, (33,), steps=STEPS)
    with pytest.raises(
        GenerateError, match=r"expected a table \[n, 16\] of image embeddings, got \[200, 32\]"
    ):
        basis_of_file(tmp_path / "table.npy", 16)
    with pytest.raises(GenerateError, match="no embeddings of the model's encoder 'lit'"):
        basis_of_root(tmp_path, sampler.cascade.encoder_identity)


def test_a_root_knows_the_components_of_its_newest_embeddings(
    sampler: Sampler, stages: dict[str, Artifact]
) -> None:
    from pipelines.aligned import read_embeddings, shard_names

    embeddings = stages["embeddings"]
    pca = basis_of_root(embeddings.path.parents[2], sampler.cascade.encoder_identity)
    rows = np.concatenate([read_embeddings(embeddings, "img", shard) for shard in shard_names(embeddings)])
    np.testing.assert_allclose(pca.mean.numpy(), rows.astype(np.float64).mean(axis=0), atol=1e-6)


def test_what_the_mask_keeps_stays_to_the_bit(sampler: Sampler, picture: np.ndarray) -> None:
    from pipelines.encoders.base import center_crop

    mask = np.full_like(picture, 255)
    side = len(mask)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 0
    painted = inpaint(sampler, picture, mask, "a cat with a red hat", count=2)
    whole = center_crop(picture, 64)
    for image in painted:
        changed = (image[-1] != whole).any(axis=2)
        assert changed.any() and not changed[40:].any() and not changed[:, 40:].any()
    assert not np.array_equal(painted[0][-1], painted[1][-1])
    with pytest.raises(GenerateError, match="white all over"):
        inpaint(sampler, picture, np.full_like(picture, 255), "a cat", count=1)
    with pytest.raises(GenerateError, match=r"the mask has \d+x5 px, the image"):
        inpaint(sampler, picture, mask[:5], "a cat", count=1)


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
        ["textdiff", str(image), "a blue cat", "--from", "a cat", "--arithmetic"],
    ):
        assert run_cli([*arguments, *common]) == 0
        paths = capsys.readouterr().out.split()
        assert len(paths) == 3 and all(Image.open(path).height == 64 for path in paths)
    hole = np.full_like(picture, 255)
    hole[: len(hole) // 2] = 0
    Image.fromarray(hole).save(tmp_path / "hole.png")
    inpainting = [
        "inpaint",
        str(image),
        "a cat",
        "--mask",
        str(tmp_path / "hole.png"),
        *common[:2],
        *common[4:],
    ]
    assert run_cli(inpainting) == 0
    assert len(capsys.readouterr().out.split()) == 3
    np.save(tmp_path / "table.npy", np.eye(40, 32, dtype=np.float32))
    components = ["--pca", "2,32", "--embeddings", str(tmp_path / "table.npy")]
    assert run_cli(["reconstruct", str(image), *components, *common[2:]]) == 0
    assert len(capsys.readouterr().out.split()) == 3
    assert run_cli(["reconstruct", str(image), *components[2:], *common[2:]]) == 2
    assert "--embeddings belongs to --pca" in capsys.readouterr().err
    assert run_cli(["reconstruct", str(image), "--pca", "2,x", *common[2:]]) == 2
    assert "whole numbers such as 20,40,80, got '2,x'" in capsys.readouterr().err
    too_many = ["--steps", "51", *common[4:]]
    for command in (
        ["vary", str(image)],
        ["reconstruct", str(image)],
        ["interpolate", str(image), str(image)],
    ):
        assert run_cli([*command, *too_many]) == 2
        assert "asks for 51 steps, but 50 steps" in capsys.readouterr().err
    assert run_cli(["vary", str(tmp_path / "gone.png"), *common]) == 2
    assert "gone.png: cannot be read as an image" in capsys.readouterr().err
