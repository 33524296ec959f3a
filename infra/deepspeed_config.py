"""DeepSpeed's configuration, and what must be said to it before it is imported or initialised."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def deepspeed_config(
    *, zero_stage: int, micro_batch: int, micro_batches: int, clip_norm: float
) -> dict[str, Any]:
    """The JSON configuration of an engine in fp32 (mixed precision is the network's own autocast).

    No optimiser is named in it: DeepSpeed would compile its own at the first start.  A torch one is passed
    in.
    """
    if zero_stage not in (0, 1, 2, 3):
        raise ValueError(f"zero_stage: expected 0, 1, 2 or 3, got {zero_stage}")
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": micro_batches,
        # Stage 0 clips nothing that it reports; the engine does it there itself.
        "gradient_clipping": clip_norm if zero_stage else 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": zero_stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            # Small parameters would otherwise stay whole on every rank, outside the sharded state.
            "stage3_param_persistence_threshold": 0,
        },
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }


def import_deepspeed() -> Any:
    """DeepSpeed, imported quietly, and kept from two things that cost a rank its time.

    At its first start on a CPU it would compile a shared-memory collective: that takes 20 s and a compiler,
    and gloo does as well for ranks of one core.  Its autotuner, unused here, would import MLflow, which is
    half of the import.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with _hidden("mlflow"):
        import deepspeed
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """To import `module` is an `ImportError` meanwhile, unless it was imported before."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
