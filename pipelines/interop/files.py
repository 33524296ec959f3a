"""Weights and configurations from outside: safetensors and JSON, nothing that is run when read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".th", ".pkl")
TEXT_FOLDERS = ("text_encoder", "tokenizer")


class InteropError(ValueError):
    """A source that cannot be imported, or a model that cannot be exported."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as float32.  Raises `InteropError` for anything else."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    refuse_pickle(path)
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise InteropError(f"{path} is missing") from None
    except SafetensorError as error:
        raise InteropError(f"{path} is no safetensors file: {error}") from None
    return {name: value.to(torch.float32) for name, value in state.items()}


def refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in PICKLES:
        raise InteropError(
            f"{path} is a pickle, which may run code when it is read; convert it once where that can do no "
            f"harm: torch.load(..., weights_only=True), then safetensors.torch.save_file, and import that"
        )


def read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InteropError(f"{path} is missing") from None
    except json.JSONDecodeError as error:
        raise InteropError(f"{path} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise InteropError(f"{path}: expected an object, got {type(values).__name__}")
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")


def empty_folder(path: Path) -> Path:
    """Made, or found empty.  Raises `InteropError` where something lies in it."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InteropError(f"{path} is not empty; name another folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def copy_text_encoder(source: Path, target: Path) -> list[str]:
    """Text encoder and tokenizer; returns the files, relative to `target`.

    Raises `InteropError` where they are missing or the encoder's weights are a pickle.
    """
    check_text_encoder(source)
    copied = []
    for folder in TEXT_FOLDERS:
        for path in sorted((source / folder).iterdir()):
            if not path.is_file() or path.suffix in PICKLES:
                continue
            (target / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / folder / path.name)
            copied.append(f"{folder}/{path.name}")
    return copied


def check_text_encoder(source: Path) -> None:
    wanted = ("text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer_config.json")
    if missing := [name for name in wanted if not (source / name).is_file()]:
        raise InteropError(
            f"{source}: {', '.join(missing)} missing; prior and decoder see the features of this CLIP text "
            f"encoder, saved by transformers as safetensors"
        )
