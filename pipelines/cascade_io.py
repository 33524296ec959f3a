"""Weights in and out: trained stages into one cascade, and a cascade into one folder.

A stage's artifact holds `config.json` (`network`, `diffusion`) and `ema.safetensors`.  A cascade's folder::

    cascade.json            networks, processes, sampling, encoder identity, sha256 of every other file here
    prior.safetensors       decoder.safetensors  upsampler_256.safetensors  ...
    heads/                  the encoder's heads, where it has any, as `train_clip` writes them

Nothing is pickled.  `cascade.json` names the digest of each file, so its own digest identifies the model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.digests import sha256_of_file
from models.config import (
    DecoderConfig,
    DiffusionConfig,
    NetworkConfig,
    PriorConfig,
    UnCLIPConfig,
    UpsamplerConfig,
    from_tagged,
)
from models.sampling import CascadeSampling

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.cascade import UnCLIP

SCHEMA_VERSION = 1
CASCADE_FILE = "cascade.json"
STAGE_CONFIG = "config.json"
STAGE_WEIGHTS = "ema.safetensors"
HEADS_FOLDER = "heads"
HEADS_FILES = ("heads.safetensors", "config.json")


class CascadeError(ValueError):
    """Weights, configurations or files that do not make a cascade."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A trained network on disk: its configuration, its process, and its averaged (EMA) weights."""

    config: NetworkConfig
    diffusion: DiffusionConfig
    weights: Path
    training: Mapping[str, Any]
    """The rest of `config.json`: what the training step says of its objective."""


@dataclass(frozen=True, kw_only=True)
class LoadedCascade:
    """A cascade ready to sample, and what is needed to feed it."""

    model: UnCLIP
    sampling: CascadeSampling
    encoder: str
    """As `pipelines.encoders.registry.load_encoder` takes it."""
    encoder_identity: Mapping[str, Any]
    heads: Path | None
    digest: str
    """Identifies the model: sha256 of `cascade.json`."""

    @property
    def context(self) -> int:
        """Tokens a prompt may have: the smaller of the two contexts it goes into."""
        config = self.model.config
        return min(config.prior.context, config.decoder.text_context)

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer; both stages share it."""
        return vocab_size_of(self.model.config)


def open_stage(path: Path) -> Stage:
    """Read a stage's artifact folder (its weights stay on disk)."""
    try:
        values = json.loads((path / STAGE_CONFIG).read_bytes())
    except FileNotFoundError:
        raise CascadeError(f"{path} holds no trained stage: {STAGE_CONFIG} is missing") from None
    for required in ("network", "diffusion"):
        if required not in values:
            raise CascadeError(f"{path / STAGE_CONFIG}: expected a key {required!r}, got {sorted(values)}")
    weights = path / STAGE_WEIGHTS
    if not weights.is_file():
        raise CascadeError(f"{path} holds no trained stage: {STAGE_WEIGHTS} is missing")
    return Stage(
        config=from_tagged(values["network"]),
        diffusion=DiffusionConfig.from_dict(values["diffusion"]),
        weights=weights,
        training={key: value for key, value in values.items() if key not in ("network", "diffusion")},
    )


def compose(prior: Stage, decoder: Stage, upsamplers: Sequence[Stage]) -> UnCLIP:
    """The cascade of these stages with their EMA weights, in evaluation mode.

    Raises `CascadeError` where a stage is of the wrong class or the stages do not fit together.
    """
    config = _cascade_config(prior, decoder, upsamplers)
    model = config.build()
    for name, stage in zip(_stage_names(config), (prior, decoder, *upsamplers), strict=True):
        _load(model.get_submodule(name), stage.weights)
    return model.eval().requires_grad_(False)


def write_cascade(
    folder: Path,
    model: UnCLIP,
    *,
    sampling: CascadeSampling,
    encoder: str,
    encoder_identity: Mapping[str, Any],
    heads: Path | None,
) -> str:
    """Write the cascade's folder (weights first, `cascade.json` last) and return the model's digest."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in _stage_names(model.config):
        files.append(_weights_file(model.config, name))
        state = {key: value.contiguous() for key, value in model.get_submodule(name).state_dict().items()}
        save_file(state, folder / files[-1])
    if heads is not None:
        (folder / HEADS_FOLDER).mkdir(exist_ok=True)
        for source in HEADS_FILES:
            files.append(f"{HEADS_FOLDER}/{source}")
            shutil.copyfile(heads / source, folder / files[-1])
    description = {
        "schema_version": SCHEMA_VERSION,
        "cascade": model.config.to_dict(),
        "sampling": sampling.to_dict(),
        "encoder": encoder,
        "encoder_identity": dict(encoder_identity),
        "files": {file: sha256_of_file(folder / file) for file in files},
    }
    text = json.dumps(description, indent=1, sort_keys=True, allow_nan=False) + "\n"
    (folder / CASCADE_FILE).write_text(text)
    return sha256_of_file(folder / CASCADE_FILE)


def read_cascade(folder: Path) -> LoadedCascade:
    """Load a cascade's folder, every file verified against the digest it was written with."""
    try:
        description = json.loads((folder / CASCADE_FILE).read_bytes())
    except FileNotFoundError:
        raise CascadeError(f"{folder} holds no model: {CASCADE_FILE} is missing") from None
    if description.get("schema_version") != SCHEMA_VERSION:
        raise CascadeError(
            f"{folder / CASCADE_FILE}: schema {description.get('schema_version')!r}, this version of unclip "
            f"reads {SCHEMA_VERSION}"
        )
    for name, expected in description["files"].items():
        if (got := sha256_of_file(folder / name)) != expected:
            raise CascadeError(f"{folder / name} is damaged: sha256 {got[:12]}…, expected {expected[:12]}…")
    config = UnCLIPConfig.from_dict(description["cascade"])
    model = config.build()
    for name in _stage_names(config):
        _load(model.get_submodule(name), folder / _weights_file(config, name))
    heads = folder / HEADS_FOLDER
    return LoadedCascade(
        model=model.eval().requires_grad_(False),
        sampling=CascadeSampling.from_dict(description["sampling"]),
        encoder=description["encoder"],
        encoder_identity=description["encoder_identity"],
        heads=heads if heads.is_dir() else None,
        digest=sha256_of_file(folder / CASCADE_FILE),
    )


def _cascade_config(prior: Stage, decoder: Stage, upsamplers: Sequence[Stage]) -> UnCLIPConfig:
    expected = [(prior, PriorConfig), (decoder, DecoderConfig), *((u, UpsamplerConfig) for u in upsamplers)]
    for stage, wanted in expected:
        if not isinstance(stage.config, wanted):
            raise CascadeError(
                f"{stage.weights.parent}: expected a network of {wanted.__name__}, got "
                f"{type(stage.config).__name__}; is it wired to the right step?"
            )
    assert isinstance(prior.config, PriorConfig)
    assert isinstance(decoder.config, DecoderConfig)
    try:
        return UnCLIPConfig(
            prior=prior.config,
            prior_diffusion=prior.diffusion,
            decoder=decoder.config,
            decoder_diffusion=decoder.diffusion,
            upsamplers=tuple(u.config for u in upsamplers if isinstance(u.config, UpsamplerConfig)),
            upsampler_diffusions=tuple(u.diffusion for u in upsamplers),
        )
    except ValueError as error:
        raise CascadeError(f"the stages do not make a cascade: {error}") from None


def vocab_size_of(config: UnCLIPConfig) -> int:
    """The tokenizer's vocabulary.  Raises `CascadeError` where prior and decoder were trained with two, or
    see no tokens at all."""
    prior, decoder = config.prior.vocab_size, config.decoder.vocab_size
    if decoder is None:
        raise CascadeError("the decoder takes the features of an outer text encoder, not token ids")
    if prior != decoder:
        raise CascadeError(
            f"the prior was trained on a vocabulary of {prior} tokens, the decoder on one of {decoder}; "
            f"give both the same vocab_size"
        )
    return decoder


def _stage_names(config: UnCLIPConfig) -> list[str]:
    """Names of the submodules, in the order of the cascade."""
    return ["prior", "decoder", *(f"upsamplers.{i}" for i in range(len(config.upsamplers)))]


def _weights_file(config: UnCLIPConfig, name: str) -> str:
    if not name.startswith("upsamplers."):
        return f"{name}.safetensors"
    return f"upsampler_{config.upsamplers[int(name.partition('.')[2])].image_size}.safetensors"


def _load(module: nn.Module, weights: Path) -> None:
    from safetensors.torch import load_file

    state: dict[str, Tensor] = load_file(weights)
    missing, unexpected = _difference(module.state_dict(), state)
    if missing or unexpected:
        raise CascadeError(
            f"{weights} does not fit {type(module).__name__}: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}"
        )
    module.load_state_dict(state)


def _difference(expected: Iterable[str], got: Iterable[str]) -> tuple[list[str], list[str]]:
    return sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
