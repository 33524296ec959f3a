"""Two names for one weight: tables that carry a state dict over to another project's names, and back.

A `Row` says which of our tensors is which of theirs; the same table serves both directions, so that what is
exported comes back bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


class StateDictError(ValueError):
    """Weights that do not fit the network they are read for."""


@runtime_checkable
class Form(Protocol):
    """How one of our tensors lies in theirs."""

    def split(self, ours: Tensor) -> tuple[Tensor, ...]: ...
    def join(self, theirs: tuple[Tensor, ...]) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Same:
    """The same numbers; in shapes of their own where the two differ by dimensions of size 1."""

    theirs: tuple[int, ...] | None = None
    ours: tuple[int, ...] | None = None

    def split(self, ours: Tensor) -> tuple[Tensor, ...]:
        return (ours if self.theirs is None else ours.reshape(self.theirs),)

    def join(self, theirs: tuple[Tensor, ...]) -> Tensor:
        return theirs[0] if self.ours is None else theirs[0].reshape(self.ours)


@dataclass(frozen=True, slots=True)
class Pointwise:
    """Ours is a 1x1 convolution over a sequence, theirs a linear layer."""

    def split(self, ours: Tensor) -> tuple[Tensor, ...]:
        return (ours[..., 0] if ours.ndim == 3 else ours,)

    def join(self, theirs: tuple[Tensor, ...]) -> Tensor:
        return theirs[0][..., None] if theirs[0].ndim == 2 else theirs[0]


@dataclass(frozen=True, slots=True)
class Heads:
    """Ours is one projection, its rows [head, part, channel]; theirs is one a part, rows [head, channel].

    `inner` is what becomes of each part.
    """

    heads: int
    parts: int
    inner: Form = Same()

    def split(self, ours: Tensor) -> tuple[Tensor, ...]:
        by_head = ours.reshape(self.heads, self.parts, -1, *ours.shape[1:])
        return tuple(self.inner.split(part.flatten(0, 1))[0] for part in by_head.unbind(1))

    def join(self, theirs: tuple[Tensor, ...]) -> Tensor:
        parts = [self.inner.join((part,)) for part in theirs]
        by_head = [part.reshape(self.heads, -1, *part.shape[1:]) for part in parts]
        return torch.stack(by_head, dim=1).flatten(0, 2)


@dataclass(frozen=True, slots=True)
class Transposed:
    """Rows that are [token, channel] in ours are [channel, token] in theirs."""

    tokens: int

    def split(self, ours: Tensor) -> tuple[Tensor, ...]:
        return (ours.reshape(self.tokens, -1, *ours.shape[1:]).transpose(0, 1).flatten(0, 1),)

    def join(self, theirs: tuple[Tensor, ...]) -> Tensor:
        return theirs[0].reshape(-1, self.tokens, *theirs[0].shape[1:]).transpose(0, 1).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Row:
    ours: str
    theirs: tuple[str, ...]
    form: Form = Same()


def layer(ours: str, *theirs: str, form: Form = Same()) -> list[Row]:
    """The rows of a module: its weight and its bias."""
    return [
        Row(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs), form) for kind in ("weight", "bias")
    ]


def below(rows: Iterable[Row], ours: str, theirs: str) -> list[Row]:
    """The rows with a prefix on either side."""
    return [Row(ours + row.ours, tuple(theirs + name for name in row.theirs), row.form) for row in rows]


def to_theirs(rows: Iterable[Row], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names.  Rows of parts that the network lacks are passed over."""
    renamed: dict[str, Tensor] = {}
    for row in rows:
        if row.ours in state:
            renamed |= zip(row.theirs, row.form.split(state[row.ours]), strict=True)
    return renamed


def to_ours(
    rows: Iterable[Row], theirs: Mapping[str, Tensor], network: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Their tensors under our names, checked.

    network: our state dict, from which names and shapes are taken (it may lie on the meta device).
    Raises `StateDictError` naming every tensor of `where` that is missing, extra or of another shape.
    """
    rows = [row for row in rows if row.ours in network]
    check(to_theirs(rows, network), theirs, where)
    return {row.ours: row.form.join(tuple(theirs[name] for name in row.theirs)) for row in rows}


def check(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], where: str) -> None:
    """Raises `StateDictError` unless `got` has exactly the names and shapes of `expected`."""
    problems = []
    if missing := sorted(expected.keys() - got.keys()):
        problems.append(f"{len(missing)} missing: {_some(missing)}")
    if extra := sorted(got.keys() - expected.keys()):
        problems.append(f"{len(extra)} that the network does not have: {_some(extra)}")
    shapes = [
        f"{name} expected {tuple(expected[name].shape)}, got {tuple(got[name].shape)}"
        for name in sorted(expected.keys() & got.keys())
        if expected[name].shape != got[name].shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} of another shape: {_some(shapes)}")
    if problems:
        raise StateDictError(
            f"{where} does not fit its configuration: {'; '.join(problems)}; give the configuration these "
            f"weights were trained with"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
