"""Checkpoints: atomic, verified, and independent of engine, ZeRO stage and number of ranks.

Layout of one, in the step's scratch folder::

    checkpoints/step_00000100/
        weights.pt  ema.pt  exp_avg.pt  exp_avg_sq.pt     whole fp32 tensors by parameter name
        timesteps.pt                                      losses by timestep, where those are drawn by loss
        state.json                                        the rest, and the sha256 of every file

It is written under a temporary name, synced, and renamed: a folder without `.tmp` is whole, and its digests
say whether it still is.  The random numbers of training are functions of (seed, step, rank) and (seed,
position in the stream), the learning rate of the step: `state.json` holds those arguments, and needs no
generator states.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infra.digests import sha256_of_file

FORMAT = 1
FOLDER = "checkpoints"
TENSORS = ("weights", "ema", "exp_avg", "exp_avg_sq", "timesteps")


class DamagedCheckpointError(RuntimeError):
    """A checkpoint whose bytes are not what was written."""


class ForeignCheckpointError(RuntimeError):
    """A checkpoint of another training: other seed, batch or tracking identity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """Where training stands.  `step` counts finished updates; the rest says what the numbers mean."""

    step: int
    epoch: int
    position: int
    """In the epoch, of the next sample."""
    seed: int
    """Of stream, draws and ranks: with `step`, the state of every generator."""
    batch: int
    ranks: int
    zero_stage: int | None
    lr: float
    """Of the last update (the schedule is a function of the step)."""
    tracking_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A checkpoint in memory: CPU tensors by parameter name."""

    cursor: Cursor
    history: list[dict[str, float]]
    """Metrics so far, each with its `step`: what `training.json` will hold, whatever became of the
    journal."""
    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]
    timesteps: dict[str, Tensor] = field(default_factory=dict)
    """`LossAwareTimesteps.state_dict()`, or nothing."""


class Checkpoints:
    """The checkpoints of one training, newest last."""

    def __init__(self, work: Path, keep: int = 2) -> None:
        self.folder, self.keep = work / FOLDER, keep

    def save(self, state: State) -> Path:
        """Write a checkpoint and drop all but the newest `keep`.  By one rank only."""
        final = self.folder / f"step_{state.cursor.step:08d}"
        temporary = final.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        names = [name for name in TENSORS if getattr(state, name)]
        for name in names:
            with (temporary / f"{name}.pt").open("wb") as stream:
                torch.save(getattr(state, name), stream)
                stream.flush()
                os.fsync(stream.fileno())
        digests = {name: sha256_of_file(temporary / f"{name}.pt") for name in names}
        described = {"format": FORMAT, "cursor": asdict(state.cursor), "sha256": digests}
        described["history"] = state.history
        with (temporary / "state.json").open("w") as stream:
            stream.write(json.dumps(described, indent=1, sort_keys=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        shutil.rmtree(final, ignore_errors=True)  # of the same step: a damaged one that is made again
        temporary.rename(final)
        _sync_folder(self.folder)
        for old in self.paths()[: -self.keep]:
            shutil.rmtree(old)
        return final

    def paths(self) -> list[Path]:
        """Folders of finished checkpoints, oldest first; whether they are intact is not looked at."""
        return sorted(p for p in self.folder.glob("step_*") if p.suffix != ".tmp")

    def newest_valid(self) -> Path | None:
        """The newest intact checkpoint; a damaged one is skipped with a warning."""
        for path in reversed(self.paths()):
            try:
                verify(path)
            except DamagedCheckpointError as error:
                warnings.warn(f"checkpoint skipped: {error}", stacklevel=2)
                continue
            return path
        return None


def verify(path: Path) -> Mapping[str, Any]:
    """The contents of `state.json`, after every file matched its digest; raises `DamagedCheckpointError`."""
    try:
        described: dict[str, Any] = json.loads((path / "state.json").read_bytes())
        if described["format"] != FORMAT:
            raise DamagedCheckpointError(f"{path}: format {described['format']!r}, expected {FORMAT}")
        for name, expected in described["sha256"].items():
            if (got := sha256_of_file(path / f"{name}.pt")) != expected:
                raise DamagedCheckpointError(
                    f"{path}/{name}.pt: sha256 {got[:12]}…, expected {expected[:12]}…"
                )
        Cursor(**described["cursor"])
        described["history"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{path}: {error}") from error
    return described


def load(path: Path) -> State:
    """Read a checkpoint that `newest_valid` returned."""
    described = json.loads((path / "state.json").read_bytes())
    tensors = {
        name: torch.load(path / f"{name}.pt", weights_only=True, mmap=True) for name in described["sha256"]
    }
    return State(cursor=Cursor(**described["cursor"]), history=described["history"], **tensors)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
