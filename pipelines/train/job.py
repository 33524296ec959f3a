"""A training job: everything the ranks are told, in plain data that pickles and needs no pydantic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.config import ARPriorConfig, DecoderConfig, PriorConfig, UpsamplerConfig
from pipelines.train.objectives import StageObjective
from pipelines.train.optimiser import OptimiserSettings
from pipelines.train.stream import View

TrainedConfig = PriorConfig | ARPriorConfig | DecoderConfig | UpsamplerConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """One network, one objective, one stream.  Paths must mean the same on every node."""

    network: TrainedConfig
    objective: StageObjective
    index: Path
    view: View | None
    optimiser: OptimiserSettings
    steps: int
    batch: int
    """Samples of one update, over all ranks."""
    seed: int
    work: Path
    """Where checkpoints go."""
    journal: Path
    micro_batch: int | None = None
    """Samples a rank handles at a time; gradients of several are summed into one update.  None: its whole
    slice."""
    ema_decay: float = 0.9999
    ranks: int = 1
    zero_stage: int | None = None
    """Of DeepSpeed; None: plain torch."""
    initial: Path | None = None
    """A stage's folder, whose averaged weights are the first ones; None: drawn from the seed."""
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 1
    """Of each rank's CPU kernels: another number sums in another order."""
    log_every: int = 10
    validate_every: int = 100
    validation_samples: int = 64
    checkpoint_every: int = 100
    prefetch: int = 1
    cache_bytes: int = 64 * 2**20
    tracking_id: str = ""
    buffers: Path | None = None
    """The network's buffers, fitted before training began: constants of it, which no checkpoint repeats."""
    loss_aware_steps: int | None = None
    """Timesteps of the process, drawn by their losses (2102.09672, section 3.3); None: uniform."""

    def __post_init__(self) -> None:
        """Raise `ValueError` where the batch cannot be cut."""
        if self.batch % self.ranks:
            raise ValueError(f"batch {self.batch} cannot be cut into {self.ranks} equal slices, one a rank")
        if self.local_batch % (self.micro_batch or self.local_batch):
            raise ValueError(
                f"a rank's {self.local_batch} samples cannot be cut into micro-batches of {self.micro_batch}"
            )

    @property
    def local_batch(self) -> int:
        return self.batch // self.ranks

    @property
    def micro_batches(self) -> int:
        return self.local_batch // (self.micro_batch or self.local_batch)
