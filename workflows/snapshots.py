"""Which snapshot of an acquisition stands for its step: the newest, unless the recipe pins one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from infra.snapshots import Lineage, Snapshot
from infra.store import Artifact, Store
from workflows.graph import FIRST_SNAPSHOT, NEWEST_SNAPSHOT, Node
from workflows.refusal import Refusal


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The finished artifact that stands for a step, and in words which one it is."""

    artifact: Artifact
    why: str = "finished"


def taken(node: Node, store: Store, address: str) -> Taken | None:
    """What stands for the step whose own artifact is at `address`; None where nothing is made yet.

    Raises `Refusal` where the pinned snapshot, or one written down as the newest, is not there.
    """
    kind = node.step.produces
    later = Lineage(store.root, kind, address).snapshots() if node.step.observes else []
    wanted = _wanted(node, [address, *(snapshot.address for snapshot in later)])
    artifact = store.find(kind, wanted)
    if artifact is None:
        if wanted == address:
            return None
        raise Refusal(
            f"steps.{node.name}: snapshot {wanted[:20]} is not in {store.root} any more; restore it, or pin "
            f"another with --set steps.{node.name}.snapshot={FIRST_SNAPSHOT}"
        )
    return Taken(artifact=artifact, why=_why(wanted, later, pinned=node.snapshot != NEWEST_SNAPSHOT))


def _wanted(node: Node, addresses: list[str]) -> str:
    """The address that the node's pin means, of the original and those that followed it."""
    if node.snapshot == NEWEST_SNAPSHOT:
        return addresses[-1]
    if node.snapshot == FIRST_SNAPSHOT:
        return addresses[0]
    found = [address for address in addresses if address.startswith(node.snapshot)]
    if len(found) != 1:
        known = ", ".join(address[:20] for address in addresses)
        raise Refusal(
            f"steps.{node.name}.snapshot: {node.snapshot!r} is the start of {len(found)} snapshots, expected "
            f"one of: {known}"
        )
    return found[0]


def _why(wanted: str, later: list[Snapshot], *, pinned: bool) -> str:
    if not later:
        return "finished"
    numbers = {snapshot.address: number for number, snapshot in enumerate(later, start=2)}
    number = numbers.get(wanted, 1)
    made = "as acquired"
    if number > 1:
        snapshot = later[number - 2]
        made = f"{snapshot.why} of {datetime.fromtimestamp(snapshot.when, UTC):%Y-%m-%d}"
    which = "pinned" if pinned else "newest"
    return f"finished: {which} snapshot, {number} of {len(later) + 1} ({made})"
