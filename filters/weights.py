"""Weight files that installed packages carry: found without importing the package, checked by sha256.

The packages' own code is not run: some need TensorFlow, some fetch a file when theirs is missing.
"""

import hashlib
import importlib.util
from pathlib import Path


class WeightsError(RuntimeError):
    """A weight or dictionary file is missing or is not the file that the scores were measured with."""


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read in 1 MiB blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_file(package: str, relative: str, distribution: str, sha256: str | None) -> Path:
    """Path of ``relative`` inside the installed ``package``; with a ``sha256`` its content must match it.

    Raises WeightsError when the package or file is missing (``distribution`` is what to install) or when
    the content differs.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"package {package!r} is not installed; install {distribution!r}")
    path = Path(spec.submodule_search_locations[0]) / relative
    if not path.is_file():
        raise WeightsError(f"{path} is missing from package {package!r}; reinstall {distribution!r}")
    if sha256 is not None:
        verify_sha256(path, sha256)
    return path


def verify_sha256(path: Path, expected: str) -> None:
    """Raises WeightsError unless the file's sha256 is ``expected``."""
    found = sha256_of(path)
    if found != expected:
        raise WeightsError(
            f"{path}: sha256 is {found}, expected {expected}. The file was changed or is of another release: "
            "reinstall the package at its locked version, or measure the scorer anew and bump its version"
        )
