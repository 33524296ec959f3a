"""What this machine has free, and whether a folder can be written: facts that plans are checked against."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def folder_problem(folder: Path, option: str = "--root") -> str | None:
    """Why nothing can be written to `folder`, which need not exist yet, or None.  Writes nothing itself."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    where = f"{option} {folder}: {existing}"
    if not existing.is_dir():
        return f"{where} is a file, not a folder; choose another"
    if not os.access(existing, os.W_OK | os.X_OK) or os.statvfs(existing).f_flag & os.ST_RDONLY:
        return f"{where} cannot be written by this user; choose another"
    if shutil.disk_usage(existing).total == 0:  # /proc and /sys grant access but hold no files
        return f"{where} is no file system that holds files; choose another"
    return None


def free_disk_bytes(path: Path) -> int:
    """Bytes free to this user on the file system that holds `path` (which need not exist yet)."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def available_memory_bytes() -> int:
    """Bytes of memory still to be had: of the machine, or of the container's limit where that is less."""
    import psutil

    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            used = int((group / "memory.current").read_text())
            available = min(available, int(limit) - used + _reclaimable(group))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: the machine's figure stands
    return max(available, 0)


def _reclaimable(group: Path) -> int:
    """Bytes of page cache counted against the container that the kernel gives back when asked."""
    facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(facts.get("inactive_file", 0))
