"""Registration: the folder is complete and the same every time; what is not good enough stays out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.store import Artifact
from pipelines.cascade_io import CascadeError, compose, open_stage, read_cascade
from pipelines.register import Bound, NotGoodEnoughError, RegisterConfig, require
from tests.pipelines.conftest import run_register
from tests.tiny_cascade import DECODER, EPSILON, SAMPLING, tiny_stage

CONFIG = RegisterConfig(evaluation="-", corpus="-", embeddings="-", prior="-", decoder="-")


def test_the_folder_holds_the_evaluated_cascade(model: Artifact, stages: dict[str, Artifact]) -> None:
    cascade = read_cascade(model.path)
    assert cascade.sampling == SAMPLING
    assert cascade.encoder == "lit"
    assert cascade.heads is not None
    assert cascade.digest == model.summary["model"]
    from safetensors.torch import load_file

    ema = load_file(stages["decoder"].path / "ema.safetensors")
    for name, value in cascade.model.decoder.state_dict().items():
        assert (value == ema[name]).all(), name
    assert not cascade.model.training


def test_registering_again_gives_the_same_bytes(
    tmp_path: Path, stages: dict[str, Artifact], evaluation: Artifact, model: Artifact
) -> None:
    again = run_register(tmp_path, "again", stages | {"evaluation": evaluation}, CONFIG)
    assert again.content == model.content


def test_the_card_shows_figures_with_their_counts_and_limits(model: Artifact) -> None:
    card = (model.path / "README.md").read_text()
    assert model.summary["model"] in card
    assert "| prior cosine posterior mean |" in card and "| 8 |" in card
    assert "not FID" in card and "## Limits" in card


def test_thresholds_name_every_miss() -> None:
    summary = {"upsampler_256_psnr_db_gain": -0.2, "cascade_kid_generated": 0.1}
    require(summary, {"cascade_kid_generated": Bound(max=0.2), "prior_cosine": None})
    with pytest.raises(NotGoodEnoughError) as error:
        require(
            summary,
            {
                "upsampler_256_psnr_db_gain": Bound(min=0),
                "cascade_kid_generated": Bound(max=0.2),
                "prior_cosine": Bound(min=0.5),
            },
        )
    assert "2 of 3 requirements missed" in str(error.value)
    assert "upsampler_256_psnr_db_gain: -0.2 is below 0" in str(error.value)
    assert "prior_cosine: not measured" in str(error.value)


def test_a_gate_refuses_before_anything_is_written(
    tmp_path: Path, stages: dict[str, Artifact], evaluation: Artifact
) -> None:
    config = CONFIG.model_copy(update={"require": {"prior_cosine_posterior_mean": Bound(min=0.99)}})
    with pytest.raises(NotGoodEnoughError, match="prior_cosine_posterior_mean"):
        run_register(tmp_path, "gate", stages | {"evaluation": evaluation}, config)
    assert not list(tmp_path.glob("store/model/*/*"))


def test_what_was_not_evaluated_is_refused(
    tmp_path: Path, stages: dict[str, Artifact], evaluation: Artifact
) -> None:
    other = tiny_stage(tmp_path, "decoder", DECODER, EPSILON, {"name": "lit"}, note="another")
    with pytest.raises(NotGoodEnoughError, match="decoder: the evaluation is of"):
        run_register(tmp_path, "other", stages | {"evaluation": evaluation, "decoder": other}, CONFIG)


def test_damaged_weights_are_refused(tmp_path: Path, model: Artifact) -> None:
    copy = tmp_path / "copy"
    for source in model.path.rglob("*"):
        if source.is_file():
            target = copy / source.relative_to(model.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    data = bytearray((copy / "prior.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "prior.safetensors").write_bytes(data)
    with pytest.raises(CascadeError, match=r"prior.safetensors is damaged"):
        read_cascade(copy)
    description = json.loads((copy / "cascade.json").read_bytes())
    (copy / "cascade.json").write_text(json.dumps(description | {"schema_version": 99}))
    with pytest.raises(CascadeError, match="schema 99"):
        read_cascade(copy)
    with pytest.raises(CascadeError, match="holds no model"):
        read_cascade(tmp_path)


def test_a_folder_that_is_no_whole_model_is_refused(tmp_path: Path, model: Artifact) -> None:
    copy = Path(shutil.copytree(model.path, tmp_path / "copy"))
    text = (copy / "cascade.json").read_text()
    description = json.loads(text)

    def refused(text: str, message: str) -> None:
        (copy / "cascade.json").write_text(text)
        with pytest.raises(CascadeError, match=message):
            read_cascade(copy)

    refused(text[:-9], "cascade.json is no JSON")
    refused("[]", "cascade.json: expected an object, got list")
    refused(json.dumps({k: v for k, v in description.items() if k != "files"}), "expected files as well")
    narrow = copy_of(description, ("cascade", "decoder", "text_layers"), 0)
    refused(json.dumps(narrow), "cascade.json: .*text_layers")
    wide = copy_of(description, ("cascade", "decoder", "text_layers"), 3)
    refused(json.dumps(wide), r"decoder\.safetensors does not fit its configuration: \d+ missing")
    (copy / "decoder.safetensors").unlink()
    refused(text, "is not whole: decoder.safetensors is missing")


def copy_of(values: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    """`values` with another value at the path."""
    head, *rest = path
    return values | {head: copy_of(values[head], tuple(rest), value) if rest else value}


def test_a_stage_that_is_broken_is_refused(tmp_path: Path, stages: dict[str, Artifact]) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    for name in ("config.json", "ema.safetensors"):
        shutil.copyfile(stages["decoder"].path / name, folder / name)
    state = load_file(folder / "ema.safetensors")
    save_file(state | {"unet.out.2.bias": torch.zeros(7)}, folder / "ema.safetensors")
    with pytest.raises(CascadeError, match=r"unet\.out\.2\.bias expected \(6,\), got \(7,\)"):
        compose(open_stage(stages["prior"].path), open_stage(folder), [])
    (folder / "ema.safetensors").write_bytes(b"cut short")
    with pytest.raises(CascadeError, match=r"ema\.safetensors is no safetensors file"):
        compose(open_stage(stages["prior"].path), open_stage(folder), [])
    (folder / "config.json").write_text("{")
    with pytest.raises(CascadeError, match=r"config\.json is no JSON"):
        open_stage(folder)
    (folder / "config.json").write_text('{"network": {"type": "decoder"}, "diffusion": null}')
    with pytest.raises(CascadeError, match=r"config\.json: "):
        open_stage(folder)
