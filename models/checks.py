"""Checks of what a cascade is given to draw from, before any work."""

import torch
from torch import Tensor

from models.inpainting import Known


def check_rows(tokens: Tensor, mask: Tensor, embedding: Tensor | None, known: Known | None) -> None:
    """Raises `ValueError` where what comes with the texts has not a row, or a position, for each of theirs:
    torch would broadcast it, or fail far from here."""
    if mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"UnCLIP: expected a text_mask of shape {tuple(tokens.shape[:2])}, as the text, got "
            f"{tuple(mask.shape)}"
        )
    pixels = None if known is None else known.pixels_m11
    for name, rows in (("text_embedding", embedding), ("known", pixels)):
        if rows is not None and len(rows) != len(tokens):
            raise ValueError(
                f"UnCLIP: expected one row of {name} for each of the {len(tokens)} texts, got {len(rows)}"
            )


def check_finite(name: str, x: Tensor) -> None:
    """Raises `ValueError` with the rows of `x` that hold NaN or infinity: a sampler would carry them into
    every picture of theirs in silence."""
    if not bool(torch.isfinite(x).all()):
        rows = (~torch.isfinite(x)).flatten(1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"UnCLIP: expected finite {name}, got NaN or infinity in rows {rows[:8]}")
