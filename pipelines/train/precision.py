"""Device and precision, chosen when a plan is made, said aloud, and part of the step's identity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DeviceChoice = Literal["auto", "cpu", "cuda"]
PrecisionChoice = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Numerics:
    """What a training computes on and in, and why."""

    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    reason: str


def choose_numerics(device: DeviceChoice, precision: PrecisionChoice) -> Numerics:
    """Resolve `auto` from this machine, without importing torch.

    A plan made on a machine without a GPU for a cluster with GPUs names `device: cuda` itself.  `bf16` means
    autocast over fp32 weights: on GPUs, and on CPUs with AMX, where it is about three times as fast.
    """
    where: Literal["cpu", "cuda"] = device if device != "auto" else _device_here()
    if precision != "auto":
        return Numerics(device=where, precision=precision, reason="as the recipe says")
    if where == "cuda":
        return Numerics(device=where, precision="bf16", reason="a GPU computes bf16 natively")
    if "amx_bf16" in cpu_flags():
        return Numerics(device=where, precision="bf16", reason="the CPU has AMX")
    return Numerics(device=where, precision="fp32", reason="a CPU without AMX gains nothing from bf16")


def cpu_flags() -> frozenset[str]:
    """Instruction set extensions of this machine's CPU; empty where the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split() for line in lines if line.startswith("flags")), []))


def _device_here() -> Literal["cpu", "cuda"]:
    return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"
