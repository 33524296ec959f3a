"""Weights in and out: trained stages into one cascade, and a cascade into one folder.

A stage's artifact holds `config.json` (`network`, `diffusion`) and `ema.safetensors`, a diffusion prior's
also `noise_powers.safetensors` where analytic variances were estimated.  A cascade's folder::

    cascade.json            networks, processes, sampling, encoder identity, sha256 of every other file here
    prior.safetensors       decoder.safetensors  upsampler_256.safetensors  ...
    noise_powers.safetensors                                         where the prior has any
    heads/                  the encoder's heads, where it has any, as `train_clip` writes them
    text_encoder/ tokenizer/        of encoder `clip_text`, as transformers saves them

Nothing is pickled.  `cascade.json` names the digest of each file, so its own digest identifies the model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.digests import sha256_of_file
from models.config import (
    ARPriorConfig,
    DecoderConfig,
    DiffusionConfig,
    NetworkConfig,
    PriorConfig,
    UnCLIPConfig,
    UpsamplerConfig,
    from_tagged,
)
from models.sampling import CascadeSampling
from pipelines.interop.files import copy_text_encoder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.cascade import UnCLIP

SCHEMA_VERSION = 1
CASCADE_FILE = "cascade.json"
STAGE_CONFIG = "config.json"
STAGE_WEIGHTS = "ema.safetensors"
NOISE_POWERS = "noise_powers.safetensors"
HEADS_FOLDER = "heads"
HEADS_FILES = ("heads.safetensors", "config.json")


class CascadeError(ValueError):
    """Weights, configurations or files that do not make a cascade."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A trained network on disk: its configuration, its process, and its averaged (EMA) weights."""

    config: NetworkConfig
    diffusion: DiffusionConfig | None
    """None for an autoregressive prior."""
    weights: Path
    training: Mapping[str, Any]
    """The rest of `config.json`: what the training step says of its objective."""

    @property
    def process(self) -> DiffusionConfig:
        """Of a stage that must have one; raises `CascadeError` where it has none."""
        if self.diffusion is None:
            raise CascadeError(
                f"{self.weights.parent}: {type(self.config).__name__} has no diffusion process"
            )
        return self.diffusion

    @property
    def noise_powers(self) -> Path | None:
        """Where they lie, if any were estimated."""
        path = self.weights.with_name(NOISE_POWERS)
        return path if path.is_file() else None


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
        """Tokens a prompt may have."""
        return context_of(self.model.config)

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer; both stages share it."""
        return vocab_size_of(self.model.config)


def open_stage(path: Path) -> Stage:
    """Read a stage's artifact folder (its weights stay on disk).  Raises `CascadeError` where it is none."""
    values = _read_json(path / STAGE_CONFIG, "trained stage", ("network", "diffusion"))
    weights = path / STAGE_WEIGHTS
    if not weights.is_file():
        raise CascadeError(f"{path} holds no trained stage: {STAGE_WEIGHTS} is missing")
    try:
        config = from_tagged(values["network"])
        diffusion = values["diffusion"] and DiffusionConfig.from_dict(values["diffusion"])
    except (ValueError, TypeError) as error:
        raise CascadeError(f"{path / STAGE_CONFIG}: {error}") from error
    return Stage(
        config=config,
        diffusion=diffusion,
        weights=weights,
        training={key: value for key, value in values.items() if key not in ("network", "diffusion")},
    )


def compose(prior: Stage | None, decoder: Stage, upsamplers: Sequence[Stage]) -> UnCLIP:
    """The cascade of these stages with their EMA weights, in evaluation mode; without `prior` one whose
    decoder draws from text alone.

    Raises `CascadeError` where a stage is of the wrong class or the stages do not fit together.
    """
    config = cascade_config(prior, decoder, upsamplers)
    model = config.build()
    stages = [*([] if prior is None else [prior]), decoder, *upsamplers]
    for name, stage in zip(_stage_names(config), stages, strict=True):
        _load(model.get_submodule(name), stage.weights)
    if prior is not None and prior.noise_powers is not None:
        _load(model.noise_powers, prior.noise_powers)
    return model.eval().requires_grad_(False)


def write_cascade(
    folder: Path,
    model: UnCLIP,
    *,
    sampling: CascadeSampling,
    encoder: str,
    encoder_identity: Mapping[str, Any],
    heads: Path | None,
    text_encoder: Path | None = None,
) -> str:
    """Write the cascade's folder (weights first, `cascade.json` last) and return the model's digest.

    text_encoder: a folder whose `text_encoder/` and `tokenizer/` go into the model's.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in _saved_names(model.config):
        files.append(_weights_file(model.config, name))
        state = {key: value.contiguous() for key, value in model.get_submodule(name).state_dict().items()}
        save_file(state, folder / files[-1])
    if heads is not None:
        (folder / HEADS_FOLDER).mkdir(exist_ok=True)
        for source in HEADS_FILES:
            files.append(f"{HEADS_FOLDER}/{source}")
            shutil.copyfile(heads / source, folder / files[-1])
    if text_encoder is not None:
        files += copy_text_encoder(text_encoder, folder)
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
    """Load a cascade's folder, every file verified against the digest it was written with.

    Raises `CascadeError` where it is no model, or one that is damaged.
    """
    keys = ("schema_version", "cascade", "sampling", "encoder", "encoder_identity", "files")
    description = _read_json(folder / CASCADE_FILE, "model", keys)
    if description["schema_version"] != SCHEMA_VERSION:
        raise CascadeError(
            f"{folder / CASCADE_FILE}: schema {description['schema_version']!r}, this version of unclip "
            f"reads {SCHEMA_VERSION}"
        )
    for name, expected in description["files"].items():
        if not (folder / name).is_file():
            raise CascadeError(f"{folder} is not whole: {name} is missing")
        if (got := sha256_of_file(folder / name)) != expected:
            raise CascadeError(f"{folder / name} is damaged: sha256 {got[:12]}…, expected {expected[:12]}…")
    try:
        config = UnCLIPConfig.from_dict(description["cascade"])
        sampling = CascadeSampling.from_dict(description["sampling"])
    except (ValueError, TypeError) as error:
        raise CascadeError(f"{folder / CASCADE_FILE}: {error}") from error
    model = config.build()
    for name in _saved_names(config):
        _load(model.get_submodule(name), folder / _weights_file(config, name))
    heads = folder / HEADS_FOLDER
    return LoadedCascade(
        model=model.eval().requires_grad_(False),
        sampling=sampling,
        encoder=description["encoder"],
        encoder_identity=description["encoder_identity"],
        heads=heads if heads.is_dir() else None,
        digest=sha256_of_file(folder / CASCADE_FILE),
    )


def _read_json(path: Path, what: str, keys: Sequence[str]) -> dict[str, Any]:
    """The object in the file that makes its folder a `what`.  Raises `CascadeError` where it is none, or
    lacks a key."""
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CascadeError(f"{path.parent} holds no {what}: {path.name} is missing") from None
    except ValueError as error:
        raise CascadeError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise CascadeError(f"{path}: expected an object, got {type(values).__name__}")
    if missing := [key for key in keys if key not in values]:
        raise CascadeError(f"{path}: expected {', '.join(missing)} as well, got {sorted(values)}")
    return values


def cascade_config(prior: Stage | None, decoder: Stage, upsamplers: Sequence[Stage]) -> UnCLIPConfig:
    """Of these stages.  Raises `CascadeError` where one is of the wrong class or they do not fit together."""
    expected: list[tuple[Stage, tuple[type, ...]]] = [
        *([] if prior is None else [(prior, (PriorConfig, ARPriorConfig))]),
        (decoder, (DecoderConfig,)),
        *((upsampler, (UpsamplerConfig,)) for upsampler in upsamplers),
    ]
    for stage, wanted in expected:
        if not isinstance(stage.config, wanted):
            raise CascadeError(
                f"{stage.weights.parent}: expected a network of {' or '.join(c.__name__ for c in wanted)}, "
                f"got {type(stage.config).__name__}; is it wired to the right step?"
            )
    assert isinstance(decoder.config, DecoderConfig)
    try:
        return UnCLIPConfig(
            prior=_prior_config(prior),
            prior_diffusion=None if prior is None else prior.diffusion,
            decoder=decoder.config,
            decoder_diffusion=decoder.process,
            upsamplers=tuple(u.config for u in upsamplers if isinstance(u.config, UpsamplerConfig)),
            upsampler_diffusions=tuple(u.process for u in upsamplers),
            prior_noise_powers=() if prior is None else respacings(prior.noise_powers),
        )
    except ValueError as error:
        raise CascadeError(f"the stages do not make a cascade: {error}") from None


def _prior_config(prior: Stage | None) -> PriorConfig | ARPriorConfig | None:
    return prior.config if prior and isinstance(prior.config, PriorConfig | ARPriorConfig) else None


def context_of(config: UnCLIPConfig) -> int:
    """Tokens a prompt may have: the smallest of the contexts it goes into."""
    texts = [u.text.context for u in config.upsamplers if u.text is not None]
    prior = [] if config.prior is None else [config.prior.text_context]
    return min([config.decoder.text_context, *prior, *texts])


def vocab_size_of(config: UnCLIPConfig) -> int:
    """The tokenizer's vocabulary.  Raises `CascadeError` where prior and decoder were trained with two, or
    see no tokens at all."""
    decoder = config.decoder.vocab_size
    if decoder is None:
        raise CascadeError("the decoder takes the features of an outer text encoder, not token ids")
    if config.prior is not None and config.prior.vocab_size != decoder:
        raise CascadeError(
            f"the prior was trained on a vocabulary of {config.prior.vocab_size} tokens, the decoder on one "
            f"of {decoder}; give both the same vocab_size"
        )
    return decoder


def respacings(noise_powers: Path | None) -> tuple[str, ...]:
    """The respacings that a file of noise powers holds; none where there is no file."""
    from safetensors import safe_open

    if noise_powers is None:
        return ()
    with safe_open(noise_powers, framework="pt") as tensors:
        return tuple(sorted(tensors.keys()))


def _saved_names(config: UnCLIPConfig) -> list[str]:
    """Names of the submodules that have a file of their own."""
    return _stage_names(config) + (["noise_powers"] if config.prior_noise_powers else [])


def _stage_names(config: UnCLIPConfig) -> list[str]:
    """Names of the networks, in the order of the cascade."""
    prior = [] if config.prior is None else ["prior"]
    return [*prior, "decoder", *(f"upsamplers.{i}" for i in range(len(config.upsamplers)))]


def _weights_file(config: UnCLIPConfig, name: str) -> str:
    if not name.startswith("upsamplers."):
        return f"{name}.safetensors"
    return f"upsampler_{config.upsamplers[int(name.partition('.')[2])].image_size}.safetensors"


def _load(module: nn.Module, weights: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from models.weights.names import StateDictError, check

    try:
        state: dict[str, Tensor] = load_file(weights)
        check(module.state_dict(), state, str(weights))
    except FileNotFoundError:
        raise CascadeError(f"{weights} is missing") from None
    except SafetensorError as error:
        raise CascadeError(f"{weights} is no safetensors file: {error}") from error
    except StateDictError as error:
        raise CascadeError(str(error)) from error
    module.load_state_dict(state)
