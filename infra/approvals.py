"""Approvals of verdicts on record: who let which verdict, of which policy, pass to training, and when.

Layout under a store: `_approvals/000001.json`, one approval a file, numbered; never changed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.store import StoreError, write_atomically

FOLDER = "_approvals"


@dataclass(frozen=True, kw_only=True)
class Approval:
    """One approval: it is for a verdict's content, made by the policy of this digest, and for no other."""

    number: int
    when: str
    """ISO 8601, UTC."""
    who: str
    note: str
    verdict: str
    """Address."""
    content: str
    policy: dict[str, Any]
    """`name`, `version`, `digest`."""


def read_approvals(store: Path) -> list[Approval]:
    """Every approval, in order; raises `StoreError` naming a file that is damaged."""
    found = []
    for path in sorted((store / FOLDER).glob("[0-9]*.json")):
        try:
            found.append(Approval(**json.loads(path.read_bytes())))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"damaged approval {path}: {error}; restore it from a copy of the root"
            ) from None
    return found


def find_approval(store: Path, content: str, policy_digest: str) -> Approval | None:
    """The first approval of exactly this verdict content and policy, or None."""
    for approval in read_approvals(store):
        if approval.content == content and approval.policy["digest"] == policy_digest:
            return approval
    return None


def write_approval(store: Path, approval: Approval) -> Path:
    """Append an approval; raises `FileExistsError` where its number is taken.  Expects the root locked."""
    path = store / FOLDER / f"{approval.number:06d}.json"
    if path.exists():
        raise FileExistsError(f"{path}: approvals are never overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(asdict(approval), indent=1, sort_keys=True) + "\n").encode())
    return path
