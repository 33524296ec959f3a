"""The step graph: references between steps, their wiring checked, and the order to run them in."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.step import Resources, Step, StepConfig
from workflows.refusal import did_you_mean

# Which snapshot of an acquisition a step stands for; anything else is the start of an address.
NEWEST_SNAPSHOT, FIRST_SNAPSHOT = "newest", "first"
SNAPSHOT = r"^(newest|first|[0-9a-f]{8,64})$"
STEP_REFERENCE = re.compile(r"^\$\{steps\.([^}]+)\}$")
ARTIFACT_REFERENCE = re.compile(r"^\$\{artifact:([a-z0-9_]+)/([0-9a-f]{8,64})\}$")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReference:
    """`${steps.NAME}`: what that step of the same recipe makes."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactReference:
    """`${artifact:KIND/ADDRESS}`: a finished artifact of the root, pinned by (the start of) its address."""

    kind: str
    address: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.address[:20]}"


Reference = StepReference | ArtifactReference


@dataclass(frozen=True, kw_only=True)
class Node:
    """One step of a recipe, ready to run but for its inputs."""

    name: str
    step: Step[Any, Any]
    config: StepConfig
    resources: Resources
    inputs: Mapping[str, Reference]
    snapshot: str = NEWEST_SNAPSHOT
    """For a step that observes: which of its snapshots it stands for, `SNAPSHOT`."""

    @property
    def needs(self) -> list[str]:
        """Names of the steps whose artifacts it takes, each once."""
        return list(dict.fromkeys(r.name for r in self.inputs.values() if isinstance(r, StepReference)))


def parse_reference(text: str) -> Reference | str:
    """The reference that `text` is, or a line saying why it is none."""
    if found := STEP_REFERENCE.match(text):
        return StepReference(name=found[1])
    if found := ARTIFACT_REFERENCE.match(text):
        return ArtifactReference(kind=found[1], address=found[2])
    return f"given {text!r}; expected ${{steps.NAME}} or ${{artifact:KIND/ADDRESS}}"


def wiring_problem(
    reference: Reference, accepted: Sequence[str], makes: Mapping[str, str], reader: str
) -> str | None:
    """What is wrong with wiring `reference` into an input of step `reader` that takes `accepted` kinds.

    `makes` maps every step name of the recipe to the artifact kind it makes.
    """
    wanted = " or ".join(accepted)
    if isinstance(reference, ArtifactReference):
        return None if reference.kind in accepted else f"pins a {reference.kind}, expected {wanted}"
    if reference.name not in makes:
        return f"no step {reference.name!r}{did_you_mean(reference.name, makes)}; steps: {', '.join(makes)}"
    made = makes[reference.name]
    if made in accepted:
        return None
    fitting = [name for name, kind in makes.items() if kind in accepted and name != reader]
    return (
        f"{reference.name} makes {made}, expected {wanted}; made by: {', '.join(fitting) or 'no step here'}"
    )


def find_cycle(needs: Mapping[str, Sequence[str]]) -> list[str] | None:
    """A cycle as step names, first = last, each needed by the one after it; None where there is none."""
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return None


def in_order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Every step after those it needs, otherwise in the order given.  Expects no cycle."""
    ordered: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in ordered:
            for needed in needs[name]:
                visit(needed)
            ordered[name] = None

    for name in needs:
        visit(name)
    return list(ordered)


def with_descendants(needs: Mapping[str, Sequence[str]], start: str) -> set[str]:
    """`start` and every step that needs it, directly or through others."""
    found = {start}
    for name in in_order(needs):
        if found.intersection(needs[name]):
            found.add(name)
    return found
