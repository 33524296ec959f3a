"""Weight files, checked by sha256: those that installed packages carry, and those that authors publish.

A package's file is found without importing it: some packages need TensorFlow, some fetch a file when theirs
is missing.
"""

import hashlib
import importlib.util
import os
from pathlib import Path

WEIGHTS_FOLDER = "UNCLIP_WEIGHTS"


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


def released_file(path: Path | str | None, name: str, source: str, sha256: str) -> Path:
    """A weight file that its authors publish and no package carries, checked by sha256.

    path: where it lies; None looks for `name` in the folder that the environment variable UNCLIP_WEIGHTS
    names.  Nothing is fetched: `source` is where a user gets it.  Raises WeightsError when it is missing or
    of another content.
    """
    folder = os.environ.get(WEIGHTS_FOLDER)
    found = Path(path) if path is not None else Path(folder) / name if folder else None
    if found is None or not found.is_file():
        where = f"no file {found}" if found else f"no path given and {WEIGHTS_FOLDER} not set"
        raise WeightsError(
            f"weights {name}: {where}; get it from {source} (sha256 {sha256}) and name it in the recipe "
            f"(scorer_files) or put it into the folder of {WEIGHTS_FOLDER}"
        )
    verify_sha256(found, sha256)
    return found
