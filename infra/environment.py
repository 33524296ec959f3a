"""Environments beside ours, for packages that cannot live in it: built once a machine from a hashed lock."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from infra.locks import root_lock

LOCKS = Path(__file__).parent / "environments"
HOME = "UNCLIP_ENVIRONMENTS"


class EnvironmentFailedError(RuntimeError):
    """An environment could not be built."""


def environment_digest(name: str) -> str:
    """Hex sha256 of the environment's lock."""
    return hashlib.sha256(_lock(name).read_bytes()).hexdigest()


def environment_problem(name: str) -> str | None:
    """What speaks against building it here, or None; nothing is built."""
    if _built(name).is_dir() or _uv() is not None:
        return None
    return f"environment {name!r} is built with uv, which is not installed; run `pip install uv`"


def environment_python(name: str) -> Path:
    """The environment's Python, of the version of ours; the first call on a machine builds it, others wait.

    It lies under ~/.cache/unclip/environments, or in the folder that UNCLIP_ENVIRONMENTS names, by the
    digest of its lock.  Raises EnvironmentFailedError with uv's last words.
    """
    built = _built(name)
    if not built.is_dir():
        with root_lock(built.parent, wait=True, on_wait=lambda _: None):
            if not built.is_dir():
                _build(name, built)
    return built / "bin" / "python"


def _build(name: str, folder: Path) -> None:
    uv = _uv()
    if uv is None:
        raise EnvironmentFailedError(environment_problem(name))
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        _call([uv, "venv", "--quiet", "--clear", "--relocatable", "--python", sys.executable, str(temporary)])
        install = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", str(_lock(name))]
        _call([*install, "--python", str(temporary / "bin" / "python")])
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _call(command: list[str]) -> None:
    # Not in the current folder: uv would apply the settings of a project that lies there.
    done = subprocess.run(command, cwd=LOCKS.anchor, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFailedError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-1000:]}"
        )


def _built(name: str) -> Path:
    home = os.environ.get(HOME) or Path.home() / ".cache" / "unclip" / "environments"
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    return Path(home) / f"{name}-{version}-{environment_digest(name)[:16]}"


def _lock(name: str) -> Path:
    return LOCKS / f"{name}.lock"


def _uv() -> str | None:
    """`make setup` puts uv beside our Python, which need not be on the PATH."""
    return shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
