"""Two sides measured in turn in one process, so that a machine that slows down slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from tests.benchmarks.result import spread
from tests.models.peak_memory import peak_bytes

Call = Callable[[], Any]


def in_turn(
    ours: Call, theirs: Call, *, repeats: int, seconds: float, device: torch.device
) -> dict[str, Any]:
    """Seconds a call of both sides, their ratio by repeat, and the tensor bytes that one call makes at most.

    A repeat calls each side for at least `seconds`; a call of each beforehand is not counted.
    """
    peaks = [_peak(call, device) for call in (ours, theirs)]
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for side, call in enumerate((ours, theirs)):
            taken[side].append(_seconds_a_call(call, seconds, device))
    ratios = [their / our for our, their in zip(*taken, strict=True)]
    return {
        "ours_s": statistics.median(taken[0]),
        "theirs_s": statistics.median(taken[1]),
        "ratio": statistics.median(ratios),
        "ours_peak_mb": round(peaks[0] / 1e6, 1),
        "theirs_peak_mb": round(peaks[1] / 1e6, 1),
        "spread": {"ours_s": spread(taken[0]), "theirs_s": spread(taken[1]), "ratio": spread(ratios)},
    }


def _seconds_a_call(call: Call, seconds: float, device: torch.device) -> float:
    _wait(device)
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        call()
        _wait(device)
        calls += 1
    return (time.perf_counter() - began) / calls


def _peak(call: Call, device: torch.device) -> int:
    """Of one call, which also warms it up.  On a GPU what the allocator handed out, on a CPU live tensors."""
    if device.type != "cuda":
        return peak_bytes(call)
    call()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
