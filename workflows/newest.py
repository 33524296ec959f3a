"""The newest finished artifact of a kind under a root, or the one whose address was given."""

from __future__ import annotations

from pathlib import Path

from infra.store import Artifact, Store
from workflows.refusal import Refusal


def newest(root: Path, kind: str, address: str | None = None) -> Artifact:
    """The artifact of `kind` that was finished last, or the one whose address begins with `address`.

    Raises `Refusal` where there is none, or where the beginning fits several.
    """
    found = [artifact for artifact in Store(root).artifacts() if artifact.kind == kind]
    if not found:
        raise Refusal(f"no {kind} in {root}: run a recipe first, or name its root with --root")
    if address is None:
        return max(found, key=_finished_at)
    chosen = [artifact for artifact in found if artifact.address.startswith(address)]
    if len(chosen) != 1:
        known = ", ".join(artifact.address[:20] for artifact in found)
        raise Refusal(f"--{kind} {address}: fits {len(chosen)}, expected one of: {known}")
    return chosen[0]


def _finished_at(artifact: Artifact) -> tuple[float, str]:
    # By address where two were finished in the same instant, so that the answer never changes.
    return float(artifact.host["finished_at"]), artifact.address
