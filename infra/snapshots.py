"""The lineage of an observation: which artifacts have followed the one a step made first, and why.

An acquisition is taken once and kept; `retry` and `append` make the next snapshot with the former one as an
input.  What follows the artifact at `store/corpus/<address>` is written down beside the artifacts, oldest
first, in `store/_snapshots/corpus/<address>.jsonl`.  A line is written after the manifest of the snapshot it
names: kill -9 in between, and the same command finds the snapshot finished and writes the line.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.store import StoreError, commit_file

FOLDER = "_snapshots"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One artifact that took another's place: `parent` is the address of the one before it.

    `when` (seconds since the epoch) is for people; it enters no digest.
    """

    address: str
    parent: str
    why: str
    arguments: dict[str, Any] = field(default_factory=dict)
    when: float


class Lineage:
    """The snapshots that followed the artifact `first` of one kind; append-only."""

    def __init__(self, root: Path, kind: str, first: str) -> None:
        self.path = root / "store" / FOLDER / kind / f"{first[:20]}.jsonl"

    def snapshots(self) -> list[Snapshot]:
        """Oldest first, without the original; raises `StoreError` where the file is damaged."""
        if not self.path.is_file():
            return []
        found = []
        for number, line in enumerate(self.path.read_text().splitlines(), start=1):
            try:
                found.append(Snapshot(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise StoreError(
                    f"damaged list of snapshots {self.path}, line {number}: {error}; restore it from a copy "
                    "of the root, or delete the line to be without that snapshot"
                ) from None
        return found

    def append(self, snapshot: Snapshot) -> None:
        """Write `snapshot` down as the newest, unless it is; the root's lock must be held."""
        known = self.snapshots()
        if any(other.address == snapshot.address for other in known):
            return
        lines = [json.dumps(asdict(s), sort_keys=True) + "\n" for s in (*known, snapshot)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text("".join(lines))
        commit_file(temporary, self.path)
