"""Weights in and out: round trips bit for bit, and sources and models that are refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from models.cascade import UnCLIP
from models.config import DiffusionConfig, UpsamplerConfig
from models.prior import DiffusionPrior
from models.sampling import CascadeSampling
from models.weights.names import to_theirs
from models.weights.openai import (
    glide_rows,
    karlo_decoder_rows,
    karlo_prior_rows,
    karlo_upsampler_rows,
    upsampler_rows,
)
from pipelines.cascade_io import compose, open_stage, read_cascade, write_cascade
from pipelines.interop.exports import export_diffusers
from pipelines.interop.files import InteropError
from pipelines.interop.imports import import_weights
from tests.models.tiny import UNCLIP as TOKENS
from tests.models.weights.test_openai import BASE, GLIDE
from tests.parity.unclip_parts import CASCADE, randomise
from tests.tiny_unclip import random_unclip, tiny_text_encoder, tiny_unclip
from workflows.cli.main import run_cli


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_unclip(tmp_path_factory.mktemp("unclip"))


@pytest.fixture(scope="module")
def exported(model: Path) -> Path:
    return export_diffusers(model, model.parent / "diffusers")


def same(a: UnCLIP, b: UnCLIP) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return a.config == b.config and one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_what_is_exported_comes_back_bit_for_bit(model: Path, exported: Path, tmp_path: Path) -> None:
    back = import_weights(exported, tmp_path / "back")
    before, after = read_cascade(model), read_cascade(back)
    assert same(before.model, after.model)
    assert (before.sampling, before.encoder_identity) == (after.sampling, after.encoder_identity)
    again = export_diffusers(back, tmp_path / "again")
    first, second = (
        sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        for folder in (exported, again)
    )
    assert first == second and Path("text_proj/diffusion_pytorch_model.safetensors") in first
    for file in first:
        assert (exported / file).read_bytes() == (again / file).read_bytes(), file


def test_one_network_for_every_step_stays_one(tmp_path: Path) -> None:
    upsampler = dataclasses.replace(CASCADE.upsamplers[0], last_step_unet=False)
    model = tiny_unclip(tmp_path, dataclasses.replace(CASCADE, upsamplers=(upsampler,)))
    back = import_weights(export_diffusers(model, tmp_path / "out"), tmp_path / "back")
    assert same(read_cascade(model).model, read_cascade(back).model)


KARLO = dataclasses.replace(
    CASCADE,
    prior_diffusion=dataclasses.replace(CASCADE.prior_diffusion, clip_range=10.0),  # type: ignore[type-var]
    decoder=dataclasses.replace(CASCADE.decoder, model_channels=32, norm_groups=32),
    upsamplers=(dataclasses.replace(CASCADE.upsamplers[0], model_channels=32, norm_groups=32),),
)
KARLO_SETTINGS = {"image_size": "16", "upsampled_size": "32", "num_head_channels": "8", "prior_heads": "4"}


def karlo_folder(folder: Path, model: UnCLIP) -> Path:
    """The model as Karlo's four files; its names are facts of the published converter's."""
    tiny_text_encoder(folder)
    assert isinstance(model.prior, DiffusionPrior)
    prior, decoder, upsampler = (
        part.state_dict() for part in (model.prior, model.decoder, model.upsamplers[0])
    )
    files = {
        "prior": to_theirs(karlo_prior_rows(prior), prior),
        "decoder": to_theirs(karlo_decoder_rows(decoder, model.config.decoder), decoder),
        "sr": to_theirs(karlo_upsampler_rows(upsampler), upsampler),
    }
    statistics = {k: files["prior"].pop(f"stats.{k}") for k in ("clip_mean", "clip_std")}
    assert {"model.prd_emb", "model.transformer.resblocks.2.attn.c_qkv.bias"} <= files["prior"].keys()
    assert {"model.cf_param", "model.text_seq_proj.1.bias", "model.out.2.bias"} <= files["decoder"].keys()
    assert {"model_first_steps.out.0.bias", "model_last_step.out.0.bias"} <= files["sr"].keys()
    for name, state in {**files, "stats": statistics}.items():
        save_file({k: v.contiguous() for k, v in state.items()}, folder / f"{name}.safetensors")
    return folder


def test_karlos_files_are_a_model(tmp_path: Path) -> None:
    expected = random_unclip(KARLO)
    source = karlo_folder(tmp_path / "karlo", expected)
    got = read_cascade(import_weights(source, tmp_path / "out", KARLO_SETTINGS)).model
    assert got.config == KARLO
    assert got.prior is not None
    assert not bool(got.prior.state_dict()["given_null.features"].isnan().any())
    for name, value in expected.state_dict().items():
        if "null." not in name:
            assert torch.equal(value, got.state_dict()[name]), name
    prior = load_file(source / "prior.safetensors")
    lacking = {key: value for key, value in prior.items() if key != "model.clip_img_proj.weight"}
    save_file(lacking, source / "prior.safetensors")
    with pytest.raises(InteropError, match=r"\(prior\): clip_img_proj\.weight missing; is it whole"):
        import_weights(source, tmp_path / "again", KARLO_SETTINGS)
    (source / "stats.safetensors").rename(source / "stats.th")
    with pytest.raises(InteropError, match=r"stats\.th is a pickle.*weights_only=True"):
        import_weights(source, tmp_path / "again", KARLO_SETTINGS)
    (source / "stats.th").unlink()
    with pytest.raises(InteropError, match=r"statistics \(clip_mean\) missing"):
        import_weights(source, tmp_path / "again", KARLO_SETTINGS)


def test_glide_and_an_upsampler_are_the_stages_of_a_cascade(tmp_path: Path) -> None:
    upsampler = UpsamplerConfig(
        image_size=32,
        low_res_size=16,
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(16,),
        num_head_channels=16,
        middle_attention=True,
    )
    decoder, network = randomise(GLIDE.build()).state_dict(), randomise(upsampler.build()).state_dict()
    save_file(to_theirs(glide_rows(decoder), decoder), tmp_path / "glide.safetensors")
    save_file(to_theirs(upsampler_rows(network), network), tmp_path / "up.safetensors")
    settings = {"image_size": "16", "num_head_channels": "16", "schedule": "cosine"}
    larger = {**settings, "image_size": "32"}
    with pytest.raises(InteropError, match="do not tell low_res_size; give --set low_res_size=N"):
        import_weights(tmp_path / "up.safetensors", tmp_path / "out", larger)
    glide = import_weights(tmp_path / "glide.safetensors", tmp_path / "g", {**settings, "text_heads": "4"})
    up = import_weights(tmp_path / "up.safetensors", tmp_path / "up", {**larger, "low_res_size": "16"})
    model = compose(None, open_stage(glide), [open_stage(up)])
    assert model.config.decoder == GLIDE and model.config.upsamplers == (upsampler,)
    got = model.upsamplers[0].state_dict()
    assert got.keys() == network.keys() and all(torch.equal(got[k], network[k]) for k in got)


@pytest.mark.parametrize("glide", [False, True])
def test_a_unet_of_openais_is_a_stage(tmp_path: Path, glide: bool) -> None:
    config = GLIDE if glide else dataclasses.replace(BASE, attention_resolutions=(8,), num_head_channels=16)
    network = randomise(config.build())
    state = network.state_dict()
    source = tmp_path / "net.safetensors"
    save_file(to_theirs(glide_rows(state), state) if glide else state, source)
    settings = {"image_size": "16", "num_head_channels": "16", "schedule": "linear"}
    if glide:
        with pytest.raises(InteropError, match="do not tell text_heads; give --set text_heads=N"):
            import_weights(source, tmp_path / "out", settings)
        settings["text_heads"] = "4"
    stage = open_stage(import_weights(source, tmp_path / "out", settings))
    assert stage.config == config and stage.diffusion == DiffusionConfig(schedule="linear")
    loaded = load_file(stage.weights)
    assert loaded.keys() == state.keys() and all(torch.equal(state[k], loaded[k]) for k in state)


def test_openais_settings_that_lack_or_are_too_many_are_named(tmp_path: Path) -> None:
    source = tmp_path / "net.safetensors"
    save_file(BASE.build().state_dict(), source)
    both = {"image_size": "16", "num_head_channels": "16"}
    for settings, message in (
        ({}, "do not tell image_size; give --set image_size=N, got None"),
        ({**both, "schedule": "sine"}, "schedule=cosine or linear, got 'sine'"),
        ({**both, "heads": "3"}, "--set heads: not a setting of this source"),
    ):
        with pytest.raises(InteropError, match=message):
            import_weights(source, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


def test_pipelines_that_do_not_fit_are_refused(exported: Path, tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(InteropError, match=message):
            import_weights(tmp_path / name, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def copy(name: str) -> Path:
        return Path(shutil.copytree(exported, tmp_path / name))

    edit(copy("other") / "model_index.json", _class_name="StableDiffusionPipeline")
    refused("other", "expected diffusers' UnCLIPPipeline, got 'StableDiffusionPipeline'")
    shutil.rmtree(copy("part") / "super_res_last")
    refused("part", "super_res_last missing from the pipeline's folder")
    edit(copy("option") / "decoder" / "config.json", only_cross_attention=True)
    refused("option", "decoder: only_cross_attention is True, here only None has a counterpart")
    edit(copy("heads") / "prior" / "config.json", num_layers=2)
    refused(
        "heads",
        r"prior does not fit its configuration: 16 that the network does not have: transformer_blocks\.2",
    )
    edit(copy("scheduler") / "prior_scheduler" / "scheduler_config.json", clip_sample=False)
    refused("scheduler", "prior_scheduler: clip_sample is False, here only True")
    (copy("pickled") / "text_encoder" / "model.safetensors").rename(
        tmp_path / "pickled" / "text_encoder" / "pytorch_model.bin"
    )
    refused("pickled", r"text_encoder/model\.safetensors missing")
    weights = copy("short") / "text_proj" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state.pop("embedding_proj.bias")
    save_file(state, weights)
    refused("short", r"short does not fit .* 1 missing: text_proj\.embedding_proj\.bias")
    weights.write_bytes(b"\x80\x04")
    refused("short", "is no safetensors file")
    refused("nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    refused("empty", r"neither a pipeline of diffusers \(model_index.json\) nor Karlo's weights")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                **{"prior": None, "prior_diffusion": None},
                "decoder": dataclasses.replace(CASCADE.decoder, embedding_dim=None),
            },
            "UnCLIPConfig.prior: diffusers' unCLIP has a diffusion prior, got none",
        ),
        (
            {"prior": dataclasses.replace(CASCADE.prior, null_text="learned")},
            "PriorConfig.null_text: .*'learned'",
        ),
        (
            {"decoder": dataclasses.replace(CASCADE.decoder, embedding_scale=None)},
            "DecoderConfig.embedding_scale",
        ),
        (
            {"upsamplers": (dataclasses.replace(CASCADE.upsamplers[0], interpolation="bilinear"),)},
            "UpsamplerConfig.interpolation: .* no counterpart for 'bilinear', only for 'bicubic_antialias'",
        ),
        (
            {"upsamplers": (dataclasses.replace(CASCADE.upsamplers[0], efficient=True),)},
            "UpsamplerConfig.efficient: .* no counterpart for True, only for False",
        ),
        (
            {"upsamplers": (dataclasses.replace(CASCADE.upsamplers[0], num_res_blocks=(1, 2)),)},
            r"num_res_blocks: .* one number for all levels, got \(1, 2\)",
        ),
        ({"decoder_diffusion": DiffusionConfig(schedule="linear")}, "DiffusionConfig.schedule"),
        (
            {"decoder_diffusion": DiffusionConfig(prediction="v")},
            "prediction: diffusers' unCLIP knows .*got 'v'",
        ),
        (
            {"upsamplers": (), "upsampler_diffusions": ()},
            "upsamplers: diffusers' unCLIP has exactly one, got 0",
        ),
        (None, "PriorConfig.vocab_size: .* no counterpart for 50, only for None"),
    ],
)
def test_what_diffusers_cannot_express_is_named(
    tmp_path: Path, changes: dict[str, Any] | None, message: str
) -> None:
    config = TOKENS if changes is None else dataclasses.replace(CASCADE, **changes)
    settings: dict[str, Any] = {"encoder": "lit", "encoder_identity": {}, "heads": None}
    write_cascade(tmp_path / "m", config.build(), sampling=CascadeSampling(), **settings)
    with pytest.raises(InteropError, match=message):
        export_diffusers(tmp_path / "m", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands_import_draw_and_export(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, pictures = tmp_path / "model", tmp_path / "out"
    assert run_cli(["import", str(exported), "--out", str(model)]) == 0
    assert run_cli(["import", str(exported), "--out", str(model)]) == 2
    assert "is not empty; name another folder" in capsys.readouterr().err
    drawing = ["generate", "a cat", "--steps", "2", "--quiet", "--model", str(model), "--out", str(pictures)]
    assert run_cli(drawing) == 0
    assert (pictures / "a-cat-s0-0000.png").is_file()
    drawing[1] = "a prompt past the context"
    assert run_cli(drawing) == 2
    assert "tokens long, the model reads 7; shorten it" in capsys.readouterr().err
    assert run_cli(["vary", str(pictures / "grid.png"), "--model", str(model), "--out", str(pictures)]) == 2
    assert "imported with a text encoder alone" in capsys.readouterr().err
    grid = Image.open(pictures / "grid.png").convert("RGB")
    hole = np.full((grid.height, grid.width, 3), 255, np.uint8)
    hole[:, : grid.width // 2] = 0
    Image.fromarray(hole).save(tmp_path / "hole.png")
    painting = [
        "inpaint",
        str(pictures / "grid.png"),
        "a dog",
        "--mask",
        str(tmp_path / "hole.png"),
        "-n",
        "1",
    ]
    capsys.readouterr()
    assert run_cli([*painting, "--model", str(model), "--out", str(tmp_path / "painted")]) == 0
    painted = np.asarray(Image.open(capsys.readouterr().out.split()[0]))
    half = grid.width // 2 + 4
    assert np.array_equal(painted[:, half:], np.asarray(grid)[:, half:])
    assert not np.array_equal(painted, np.asarray(grid))
    again = tmp_path / "again"
    assert run_cli(["export", str(model), "--layout", "diffusers", "--out", str(again)]) == 0
    assert (again / "model_index.json").read_bytes() == (exported / "model_index.json").read_bytes()
    assert run_cli(["import", "x.ckpt", "--out", str(tmp_path / "y"), "--set", "image_size"]) == 2
    assert "--set image_size: expected NAME=VALUE" in capsys.readouterr().err
