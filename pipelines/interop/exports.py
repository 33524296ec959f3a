"""`unclip export`: a model folder as diffusers' `UnCLIPPipeline` loads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.weights.diffusers_config import (
    decoder_values,
    prior_values,
    scheduler_values,
    text_proj_values,
    upsampler_values,
)
from models.weights.names import StateDictError
from pipelines.interop.files import InteropError, copy_text_encoder, empty_folder, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from models.cascade import UnCLIP
    from models.config import UnCLIPConfig

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
SCHEDULER_FILE = "scheduler_config.json"
NETWORKS = ("prior", "decoder", "text_proj", "super_res_first", "super_res_last")
SCHEDULERS = ("prior_scheduler", "decoder_scheduler", "super_res_scheduler")
TEXT_PROJ_MODULE = "diffusers.pipelines.deprecated.unclip.text_proj"
"""Where diffusers 0.42 has the class.  Its own `save_pretrained` writes "diffusers", from which it then does
not load; releases before the pipeline was deprecated want "unclip" here."""


def export_diffusers(model_dir: Path, out: Path) -> Path:
    """Write the pipeline's folder, `model_index.json` last; returns it.

    Raises `InteropError` naming the field of a configuration that diffusers cannot express, `CascadeError`
    where the folder is no model.
    """
    from pipelines.cascade_io import read_cascade

    loaded = read_cascade(model_dir)
    try:
        values = pipeline_values(loaded.model.config)
    except StateDictError as error:
        raise InteropError(f"{model_dir} cannot be exported: {error}") from None
    empty_folder(out)
    states = pipeline_states(loaded.model)
    for name in NETWORKS:
        write_json(out / name / "config.json", values[name])
        _save(out / name / WEIGHTS_FILE, states[name])
    for name in SCHEDULERS:
        write_json(out / name / SCHEDULER_FILE, values[name])
    copy_text_encoder(model_dir, out)
    write_json(out / "model_index.json", _index(values))
    return out


def pipeline_values(config: UnCLIPConfig) -> dict[str, dict[str, Any]]:
    """Every part's configuration.  Raises `StateDictError` naming what diffusers cannot express."""
    if config.prior is None or config.prior_diffusion is None:
        raise StateDictError("UnCLIPConfig.prior: diffusers' unCLIP has one, got none")
    if len(config.upsamplers) != 1:
        raise StateDictError(
            f"UnCLIPConfig.upsamplers: diffusers' unCLIP has exactly one, got {len(config.upsamplers)}"
        )
    values = {
        "prior": prior_values(config.prior),
        "decoder": decoder_values(config.decoder),
        "text_proj": text_proj_values(config.decoder),
        "super_res_first": upsampler_values(config.upsamplers[0]),
        "prior_scheduler": scheduler_values(config.prior_diffusion),
        "decoder_scheduler": scheduler_values(config.decoder_diffusion),
        "super_res_scheduler": scheduler_values(config.upsampler_diffusions[0]),
    }
    return {**values, "super_res_last": values["super_res_first"]}


def pipeline_states(model: UnCLIP) -> dict[str, dict[str, Tensor]]:
    """Every network's weights, under diffusers' names."""
    from models.weights.diffusers_names import decoder_rows, prior_rows, upsampler_rows
    from models.weights.names import to_theirs

    config, upsampler = model.config, model.upsamplers[0]
    assert model.prior is not None
    prior = to_theirs(prior_rows(model.prior.config), model.prior.state_dict())
    renamed = to_theirs(decoder_rows(config.decoder), model.decoder.state_dict())
    renamed |= to_theirs(upsampler_rows(config.upsamplers[0]), upsampler.state_dict())
    states = {
        name: {k.removeprefix(f"{name}."): v for k, v in renamed.items() if k.startswith(f"{name}.")}
        for name in NETWORKS[1:]
    }
    # Without a network of its own for the last step, the one for all others makes it.
    states["super_res_last"] = states["super_res_last"] or states["super_res_first"]
    return {"prior": prior, **states}


def _index(values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    parts = {name: ["diffusers", part["_class_name"]] for name, part in values.items()}
    parts["text_proj"][0] = TEXT_PROJ_MODULE
    parts["text_encoder"] = ["transformers", "CLIPTextModelWithProjection"]
    parts["tokenizer"] = ["transformers", "CLIPTokenizer"]
    return {"_class_name": "UnCLIPPipeline", **parts}


def _save(path: Path, state: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata={"format": "pt"})
