"""What a run would do, and everything that speaks against it, found out without writing anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from filters.weights import WeightsError
from infra.forget import unfinished_purges
from infra.machine import available_memory_bytes, folder_problem, free_disk_bytes
from infra.store import SHARDS, WORK, Artifact, Store, StoreError
from pipelines.forget.rows import ForgottenError, count_forgotten, refuse_forgotten
from pipelines.step import Estimate, StepConfig, input_contents, step_address
from workflows.graph import ArtifactReference, Node, Reference, StepReference, with_descendants
from workflows.recipe import Recipe
from workflows.refusal import Refusal
from workflows.snapshots import taken

MEMORY_BYTES = 2 * 2**30
"""What a local Ray instance with one small step needs; less ends in the kernel's out-of-memory killer."""


class State(StrEnum):
    """Where a step stands before a run."""

    DONE = "done"
    WILL_RUN = "will run"
    BLOCKED = "blocked"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """One step of a plan.  `address` is empty as long as an input is not made yet.

    Of a finished step it is the address of the snapshot that stands for it.
    """

    node: Node
    state: State
    why: str
    address: str = ""
    artifact: Artifact | None = None
    estimate: Estimate


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every step in execution order, and every problem found; with problems nothing may run."""

    recipe: Recipe
    root: Path
    steps: tuple[PlannedStep, ...]
    problems: tuple[str, ...]

    @property
    def to_run(self) -> list[PlannedStep]:
        """The steps a run would execute."""
        return [step for step in self.steps if step.state is State.WILL_RUN]

    @property
    def total(self) -> Estimate:
        """Rows of the widest step, bytes and seconds of all that will run."""
        todo = [step.estimate for step in self.to_run]
        return Estimate(
            rows=max((e.rows for e in todo), default=0),
            disk_bytes=sum(e.disk_bytes for e in todo),
            seconds=sum(e.seconds for e in todo),
        )


def make_plan(recipe: Recipe, root: Path, *, only: str | None = None, start: str | None = None) -> Plan:
    """Plan a run of `recipe` under `root`.

    `only` selects one step, `start` that step and all that depend on it; what they need from other steps
    must be finished already.  A finished step is never made again, selected or not: its address says that
    nothing changed.  Raises `Refusal` where `only` or `start` is no step of the recipe.
    """
    selected = _selected(recipe, only, start)
    store = Store(root)
    problems: list[str] = []
    planned: dict[str, PlannedStep] = {}
    for node in recipe.nodes:
        step, found = _plan_step(node, store, planned, selected)
        planned[node.name] = step
        problems += [f"steps.{node.name}: {problem}" for problem in found]
    plan = Plan(recipe=recipe, root=root, steps=tuple(planned.values()), problems=())
    return replace(plan, problems=(*problems, *_machine_problems(plan)))


def find_input(reference: Reference, store: Store, made: Mapping[str, Artifact | None]) -> Artifact | None:
    """The finished artifact behind a reference, or None; raises `Refusal` where a pin matches several."""
    if isinstance(reference, StepReference):
        return made.get(reference.name)
    found = [
        artifact
        for path in sorted(
            (store.root / "store" / reference.kind).glob(f"{reference.address[:20]}*/manifest.json")
        )
        if (artifact := Artifact.open(path.parent)).address.startswith(reference.address)
    ]
    if len(found) > 1:
        raise Refusal(f"{reference} is the start of {len(found)} addresses; give more of it")
    return found[0] if found else None


def resolve_inputs(
    node: Node, store: Store, made: Mapping[str, Artifact | None]
) -> tuple[dict[str, Artifact], list[Reference]]:
    """The finished inputs of a step by field, and the references that nothing finished stands behind."""
    found, missing = {}, []
    for field, reference in node.inputs.items():
        artifact = find_input(reference, store, made)
        if artifact is None:
            missing.append(reference)
        else:
            found[field] = artifact
    return found, missing


def address_of(node: Node, inputs: Mapping[str, Artifact]) -> str:
    """The address of what a step makes from these inputs."""
    return step_address(node.step, node.config, input_contents(node.step, inputs))


def _selected(recipe: Recipe, only: str | None, start: str | None) -> set[str]:
    if only and start:
        raise Refusal(
            "--only and --from exclude each other: --only runs one step, --from it and its followers"
        )
    if only:
        return {recipe.node(only).name}
    if start:
        return with_descendants(recipe.needs, recipe.node(start).name)
    return {node.name for node in recipe.nodes}


def _plan_step(
    node: Node, store: Store, planned: Mapping[str, PlannedStep], selected: set[str]
) -> tuple[PlannedStep, list[str]]:
    """One step's place in the plan, and the problems that block it."""
    made = {name: step.artifact for name, step in planned.items()}
    inputs, missing = resolve_inputs(node, store, made)
    asked = node.name in selected
    try:
        address = "" if missing else address_of(node, inputs)
    except (OSError, ValueError, WeightsError) as error:  # a policy or weights that its identity digests
        found = (node.step.check(node.config) or [str(error)]) if asked else []
        state, why = (State.BLOCKED, found[0]) if asked else (State.SKIPPED, str(error))
        return PlannedStep(node=node, state=state, why=why, estimate=Estimate()), found
    if asked and (found := _forgotten_problems(node, inputs)):
        return PlannedStep(node=node, state=State.BLOCKED, why=found[0], estimate=Estimate()), found
    finished = taken(node, store, address) if address else None
    if finished is not None:
        artifact = finished.artifact
        done = PlannedStep(
            node=node,
            state=State.DONE,
            why=finished.why,
            address=artifact.address,
            artifact=artifact,
            estimate=_measured(artifact),
        )
        return done, []
    estimates = {
        field: planned[r.name].estimate if isinstance(r, StepReference) else _measured(inputs[field])
        for field, r in node.inputs.items()
        if isinstance(r, StepReference) or field in inputs
    }
    step = PlannedStep(
        node=node,
        state=State.WILL_RUN,
        why=_why(node, store, address, inputs, missing),
        address=address,
        estimate=node.step.estimate(node.config, estimates),
    )
    if not asked:
        return replace(step, state=State.SKIPPED, why="not asked for"), []
    problems = node.step.check(node.config) + _missing_problems(missing, planned)
    if not missing:
        problems += node.step.check_inputs(node.config, inputs)
    if not problems:
        problems = node.step.check_makers(node.config, _makers(node, planned))
    if problems:
        return replace(step, state=State.BLOCKED, why=problems[0]), problems
    blocked = [
        r.name for r in missing if isinstance(r, StepReference) and planned[r.name].state is State.BLOCKED
    ]
    if blocked:  # told once, where it arises
        return replace(step, state=State.BLOCKED, why=f"needs {', '.join(blocked)}"), []
    return step, []


def _makers(node: Node, planned: Mapping[str, PlannedStep]) -> dict[str, StepConfig]:
    """Configs of the recipe's steps that make the node's inputs, by field."""
    return {
        field: planned[reference.name].node.config
        for field, reference in node.inputs.items()
        if isinstance(reference, StepReference)
    }


def _missing_problems(missing: list[Reference], planned: Mapping[str, PlannedStep]) -> list[str]:
    problems = []
    for reference in missing:
        if isinstance(reference, ArtifactReference):
            problems.append(f"pinned artifact {reference} is not in this root")
        elif planned[reference.name].state is State.SKIPPED:
            problems.append(f"needs {reference.name}, which is not finished: run that first")
    return problems


def _why(
    node: Node, store: Store, address: str, inputs: Mapping[str, Artifact], missing: list[Reference]
) -> str:
    if missing:
        return "waits for inputs"
    heeded = node.step.forgets
    forgotten = count_forgotten(inputs[heeded]) if heeded is not None and heeded in inputs else 0
    return taken_up(node, store, address) or (
        f"{forgotten:,} rows forgotten" if forgotten else "not made yet"
    )


def _forgotten_problems(node: Node, inputs: Mapping[str, Artifact]) -> list[str]:
    """Pinned verdicts that keep what was forgotten since; those of steps are made anew."""
    problems = []
    for field, reference in node.inputs.items():
        if isinstance(reference, ArtifactReference) and reference.kind == "verdict" and field in inputs:
            try:
                refuse_forgotten(inputs[field])
            except (ForgottenError, StoreError) as error:
                problems.append(str(error))
    return problems


def taken_up(node: Node, store: Store, address: str) -> str:
    """What an interrupted run left of the step's artifact, in words; nothing where it left nothing."""
    draft = store.path_of(node.step.produces, address)
    shards = len(list((draft / SHARDS).glob("*.json")))
    if shards:
        return f"goes on from {shards} committed shards"
    if (draft / WORK).is_dir() and any((draft / WORK).iterdir()):
        return "goes on from what it left in its work folder"
    return ""


def _measured(artifact: Artifact) -> Estimate:
    """What a finished artifact really was, as an estimate for the steps after it."""
    size = sum(file.stat().st_size for file in artifact.path.rglob("*") if file.is_file())
    return Estimate(rows=artifact.rows.total, disk_bytes=size, seconds=float(artifact.host["seconds"]))


def _machine_problems(plan: Plan) -> list[str]:
    """What speaks against the root, and against the machine as far as something is to run."""
    if problem := folder_problem(plan.root):
        return [problem]
    problems = [
        f"the purge of forget record {record.number} was interrupted: run its `unclip forget` again"
        for record in unfinished_purges(plan.root / "store")
    ]
    if not plan.to_run:
        return problems
    needed, free = plan.total.disk_bytes, free_disk_bytes(plan.root)
    if needed > free:
        problems.append(
            f"root {plan.root}: about {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free on its disk; "
            "free some or choose another --root"
        )
    memory = available_memory_bytes()
    if memory < MEMORY_BYTES:
        problems.append(
            f"memory: {memory / 1e9:.1f} GB available, at least {MEMORY_BYTES / 1e9:.1f} GB needed; "
            "end other programs or raise the container's limit"
        )
    return problems
