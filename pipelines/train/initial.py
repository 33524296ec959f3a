"""Fine-tuning: a training that begins with the weights of a trained stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.config import DecoderConfig, DiffusionConfig, NetworkConfig, UpsamplerConfig
from pipelines.cascade_io import STAGE_WEIGHTS, open_stage

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.train.job import TrainedConfig


def initial_problems(
    network: TrainedConfig, diffusion: DiffusionConfig | None, encoder: Mapping[str, Any], stage: Path
) -> list[str]:
    """Why `network`, to be trained on this process and encoder, cannot go on from the stage in a folder."""
    found = open_stage(stage)
    problems = []
    if type(found.config) is not type(network):
        return [
            f"initial: expected a {type(network).__name__}, got a {type(found.config).__name__} in {stage}"
        ]
    before, after = _without_inpainting(found.config), _without_inpainting(network)
    if different := sorted(name for name in after if after[name] != before[name]):
        name = different[0]
        problems.append(
            f"initial: network.{name} is {after[name]!r}, but {before[name]!r} in {stage}"
            + (f"; also different: {', '.join(different[1:])}" if different[1:] else "")
        )
    if _takes_known(found.config) and not _takes_known(network):
        problems.append(f"initial: {stage} is an inpainting network; set network.inpainting to true")
    if found.diffusion != diffusion:
        problems.append(f"initial: diffusion is {_told(diffusion)}, but {_told(found.diffusion)} in {stage}")
    if (name := found.training.get("encoder", {}).get("name")) != encoder.get("name"):
        problems.append(
            f"initial: {stage} was trained on embeddings of {name!r}, these are {encoder.get('name')!r}"
        )
    return problems


def initial_weights(network: TrainedConfig, stage: Path) -> dict[str, Tensor]:
    """The averaged weights of a stage, with inputs for known pixels added where only `network` has them."""
    from safetensors.torch import load_file

    from models.inpainting import widened_state

    state = load_file(stage / STAGE_WEIGHTS)
    if not isinstance(network, DecoderConfig | UpsamplerConfig) or not network.inpainting:
        return state
    if _takes_known(open_stage(stage).config):
        return state
    return widened_state(state, network.patch_size)


def _told(diffusion: DiffusionConfig | None) -> Any:
    return None if diffusion is None else diffusion.to_dict()


def _takes_known(network: NetworkConfig) -> bool:
    return bool(getattr(network, "inpainting", False))


def _without_inpainting(network: NetworkConfig) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(network).items() if k != "inpainting"}
