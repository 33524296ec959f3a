"""Is everything here?  Versions, devices, memory, disk; for what is missing, the command that fixes it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from infra.machine import available_memory_bytes, folder_problem, free_disk_bytes
from infra.mlflow_client import tracking_uri, without_password

PYTHON = ((3, 11), (3, 13))
MEMORY_BYTES = 8 * 10**9
DISK_BYTES = 5 * 10**9
SHARED_MEMORY_BYTES = 500 * 2**20
SHOWN = ("torch", "torchvision", "ray", "deepspeed", "mlflow")
SETUP = "make setup"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fact.  `missing`: nothing runs without it; `note`: something optional or scarce."""

    name: str
    state: Literal["ok", "note", "missing"]
    detail: str
    fix: str = ""


def examine(root: Path) -> list[Finding]:
    """Every finding about this machine, and about `root` as the place to work in."""
    return [
        _python(),
        *_packages(),
        *_devices(),
        _ray(),
        _tracking(root),
        _compiler(),
        *_memory(),
        _disk(root),
    ]


def _python() -> Finding:
    low, high = PYTHON
    version = platform.python_version()
    if low <= sys.version_info[:2] < high:
        return Finding(name="python", state="ok", detail=f"{version} ({sys.executable})")
    wanted = f"{low[0]}.{low[1]} or {high[0]}.{high[1] - 1}"
    fix = f"make setup PYTHON=python{low[0]}.{low[1]}"
    return Finding(name="python", state="missing", detail=f"{version}, expected {wanted}", fix=fix)


def _packages() -> list[Finding]:
    """The declared dependencies, by the project's own metadata."""
    try:
        declared = metadata.requires("unclip") or []
    except metadata.PackageNotFoundError:
        detail = "the project is not installed in this Python"
        return [Finding(name="unclip", state="missing", detail=detail, fix=SETUP)]
    problems: dict[str, list[str]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    for line in declared:
        extra, problem = _requirement(line)
        counts[extra] += 1
        if problem:
            problems[extra].append(problem)
    findings = [
        Finding(name=name, state="ok", detail=metadata.version(name)) for name in SHOWN if _installed(name)
    ]
    for extra, count in counts.items():
        name = f"extra {extra}" if extra else "packages"
        bad = problems[extra]
        if not bad:
            findings.append(Finding(name=name, state="ok", detail=f"all {count} installed"))
            continue
        # The lock is how one installs: the neighbouring tools' own pins contradict each other.
        fix = f"pip install 'unclip[{extra}]'" if extra == "nudenet" else SETUP
        findings.append(
            Finding(name=name, state="note" if extra else "missing", detail="; ".join(bad), fix=fix)
        )
    return findings


def _requirement(line: str) -> tuple[str, str]:
    """The extra that a requirement belongs to (or nothing), and what is wrong with what is installed."""
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    found = re.search(r"extra == ['\"]([^'\"]+)['\"]", str(requirement.marker or ""))
    extra = found[1] if found else ""
    if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
        return extra, ""
    if not _installed(requirement.name):
        return extra, f"{requirement.name} is not installed"
    version = metadata.version(requirement.name)
    if not requirement.specifier.contains(version, prereleases=True):
        return extra, f"{requirement.name} is {version}, expected {requirement.specifier}"
    return extra, ""


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _devices() -> list[Finding]:
    """What torch itself sees: a real import, since a wheel can be installed and not load."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding(name="devices", state="missing", detail=f"torch does not load: {error}", fix=SETUP)]
    flags = _cpu_flags()
    fast = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    vectors = " ".join(fast) or "no vector extensions"
    detail = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {vectors}"
    findings = [Finding(name="cpu", state="ok", detail=detail)]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        detail = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {bf16}"
        findings.append(Finding(name=f"gpu {index}", state="ok", detail=detail))
    if not torch.cuda.is_available():
        findings.append(Finding(name="gpu", state="note", detail="none; the demo is made for CPUs"))
    return findings


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^flags\s*:\s*(.+)$", text, re.M)
    return set(found[1].split()) if found else set()


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    detail = f"cluster at {address}" if address else "a local instance for each run (RAY_ADDRESS is not set)"
    return Finding(name="ray cluster", state="ok", detail=detail)


def _tracking(root: Path) -> Finding:
    uri = tracking_uri(root)
    shown = without_password(uri)
    if not uri.startswith("http"):
        return Finding(name="tracking", state="ok", detail=shown)
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=3):
            return Finding(name="tracking", state="ok", detail=f"{shown} answers")
    except (urllib.error.URLError, OSError, ValueError) as error:
        # A note: runs go on without a server, and what it missed is sent later.
        fix = "start the server, or unset MLFLOW_TRACKING_URI"
        return Finding(name="tracking", state="note", detail=f"{shown} does not answer: {error}", fix=fix)


def _compiler() -> Finding:
    """DeepSpeed compiles its CPU communication op once per machine."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler:
        return Finding(name="compiler", state="ok", detail=compiler)
    detail = "no C++ compiler; DeepSpeed then uses gloo without its shared-memory op"
    return Finding(name="compiler", state="note", detail=detail, fix="apt-get install g++")


def _memory() -> list[Finding]:
    available = available_memory_bytes()
    scarce = available < MEMORY_BYTES
    findings = [
        Finding(
            name="memory",
            state="note" if scarce else "ok",
            detail=f"{available / 1e9:.1f} GB available" + ("; the demo needs 8" if scarce else ""),
            fix="end other programs or raise the container's limit" if scarce else "",
        )
    ]
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        small = free < SHARED_MEMORY_BYTES
        findings.append(
            Finding(
                name="/dev/shm",
                state="note" if small else "ok",
                detail=f"{free / 1e9:.1f} GB free"
                + ("; Ray falls back to slow files on disk" if small else ""),
                fix="docker run --shm-size 2g ..." if small else "",
            )
        )
    return findings


def _disk(root: Path) -> Finding:
    if problem := folder_problem(root):
        return Finding(name="root", state="missing", detail=problem, fix="unclip doctor --root DIR")
    free = free_disk_bytes(root)
    if free < DISK_BYTES:
        detail = f"{free / 1e9:.1f} GB free for {root}; the demo needs about {DISK_BYTES / 1e9:.0f}"
        return Finding(name="disk", state="note", detail=detail, fix="choose another --root")
    return Finding(name="disk", state="ok", detail=f"{free / 1e9:.1f} GB free for {root}")
