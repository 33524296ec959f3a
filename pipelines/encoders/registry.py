"""Encoders by name.  A new one is one file and one branch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.encoders.base import Device, Encoder, Precision
from pipelines.encoders.lit import Lit, lit_identity

_OPEN_CLIP = "open_clip:"
KNOWN = "lit, open_clip:<model>/<pretrained or path>"


def load_encoder(
    name: str,
    *,
    heads: Path | None = None,
    folder: Path | None = None,
    threads: int = 1,
    device: Device = "cpu",
    precision: Precision = "fp32",
    batch: int = 32,
) -> Encoder:
    """A ready encoder.

    heads: folder of a `clip_heads` artifact, for `lit`; without it `lit` gives its towers' features.
    folder: of the model, for `clip_text`, which lies in it.  batch: rows of a pass on an accelerator.
    Raises ValueError for an unknown name, FileNotFoundError or WeightsError where weights are missing or
    changed.
    """
    if name == "lit":
        return Lit(heads=heads, threads=threads, device=device, precision=precision, batch=batch)
    if name.startswith(_OPEN_CLIP):
        if heads is not None:
            raise ValueError(f"encoder {name!r} has a joint space of its own and takes no heads, got {heads}")
        from pipelines.encoders.open_clip import OpenClip

        spec = name.removeprefix(_OPEN_CLIP)
        return OpenClip(spec, threads=threads, device=device, precision=precision, batch=batch)
    if name == "clip_text" and folder is not None:
        from pipelines.encoders.clip_text import ClipText

        return ClipText(folder)
    raise ValueError(f"unknown encoder {name!r}; known: {KNOWN}")


def encoder_facts(name: str, precision: Precision = "fp32") -> dict[str, Any]:
    """What is known of an encoder without loading it, for a step's digest; raises as `load_encoder`."""
    if name == "lit":
        return lit_identity(None, precision)
    if name.startswith(_OPEN_CLIP):
        from pipelines.encoders.open_clip import open_clip_identity

        return open_clip_identity(name.removeprefix(_OPEN_CLIP), precision)
    raise ValueError(f"unknown encoder {name!r}; known: {KNOWN}")
