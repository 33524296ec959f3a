"""The next snapshot of a recipe's acquisition, made as a run of one step and written down in its lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infra.snapshots import Lineage, Snapshot
from infra.store import Artifact, Store
from pipelines.acquire.snapshot import RETRIED, Append, Retry, asked_again
from pipelines.step import Step
from workflows.execute import Execution, execute
from workflows.graph import NEWEST_SNAPSHOT, ArtifactReference, Node
from workflows.plan import address_of, make_plan, resolve_inputs
from workflows.recipe import Recipe
from workflows.refusal import Refusal, did_you_mean

ACQUIRE = "acquire"


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """A finished acquire step of a recipe: `first` is the address it began with."""

    recipe: Recipe
    root: Path
    node: Node
    inputs: Mapping[str, Artifact]
    first: str
    newest: Artifact

    @property
    def lineage(self) -> Lineage:
        return Lineage(self.root, self.newest.kind, self.first)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The newest snapshot and the one before; the same, and no execution, where there was nothing to do."""

    parent: Artifact
    newest: Artifact
    execution: Execution | None = None


def parse_states(text: str) -> tuple[str, ...]:
    """`transient,timeout` as state names; raises `Refusal` naming the nearest where one is unknown."""
    states = [word.strip() for word in text.split(",") if word.strip()]
    problems = [
        f"--only: {state!r} is no state that can be retried{did_you_mean(state, RETRIED)}; known: "
        + ", ".join(RETRIED)
        for state in states
        if state not in RETRIED
    ]
    if not states:
        problems = [f"--only: expected states, got none; known: {', '.join(RETRIED)}"]
    if problems:
        raise Refusal(problems)
    return tuple(sorted(set(states)))


def find_acquisition(recipe: Recipe, root: Path, name: str | None = None) -> Acquisition:
    """The acquire step called `name` (or the only one) with its newest snapshot.

    Raises `Refusal` where there is no such step, it is not finished in `root`, or the recipe pins a snapshot.
    """
    node = recipe.node_of(ACQUIRE, name)
    if node.snapshot != NEWEST_SNAPSHOT:
        raise Refusal(
            f"steps.{node.name}.snapshot: pins {node.snapshot}, but the next snapshot follows the newest; "
            f"say --set steps.{node.name}.snapshot={NEWEST_SNAPSHOT}"
        )
    made = {step.node.name: step.artifact for step in make_plan(recipe, root, only=node.name).steps}
    inputs, _ = resolve_inputs(node, Store(root), made)
    newest = made[node.name]
    if newest is None:
        raise Refusal(
            f"step {node.name} is not finished in {root}: run it first, with the same --set: "
            f"unclip run {recipe.path} --root {root} --only {node.name}"
        )
    return Acquisition(
        recipe=recipe, root=root, node=node, inputs=inputs, first=address_of(node, inputs), newest=newest
    )


def retry(acquisition: Acquisition, only: Sequence[str], *, quiet: bool, tracking: bool) -> Outcome:
    """Ask again for the rows in the states `only`; nothing is made where there is none."""
    if not asked_again(acquisition.newest, frozenset(only)):
        return Outcome(parent=acquisition.newest, newest=acquisition.newest)
    recipe = _next(acquisition, Retry(), {"only": tuple(only)})
    return _take(acquisition, recipe, {"only": list(only)}, quiet=quiet, tracking=tracking)


def append(acquisition: Acquisition, urls: str, *, quiet: bool, tracking: bool) -> Outcome:
    """Add the rows of the list `urls`; nothing is made where a list of this content was taken before."""
    recipe = _next(acquisition, Append(), {"url_list": urls})
    (node,) = recipe.nodes
    try:
        digest = node.step.identity(node.config).get("url_list", "")
    except (OSError, ValueError) as error:  # a list that it digests
        raise Refusal(f"URL list {urls}: {error}") from None
    if digest in _lists(acquisition):
        return Outcome(parent=acquisition.newest, newest=acquisition.newest)
    return _take(acquisition, recipe, {"urls": urls, "digest": digest}, quiet=quiet, tracking=tracking)


def _lists(acquisition: Acquisition) -> list[str]:
    """Digests of the lists that the newest snapshot was made of."""
    node = acquisition.node
    appended = [s.arguments["digest"] for s in acquisition.lineage.snapshots() if s.why == Append.kind]
    return [*appended, node.step.identity(node.config).get("url_list")]


def _next(acquisition: Acquisition, step: Step[Any, Any], settings: Mapping[str, Any]) -> Recipe:
    """The recipe of the one step that makes the next snapshot, with the settings of the acquisition."""
    newest = acquisition.newest
    wired = {"corpus": newest}
    if "serve" in acquisition.inputs:
        wired["serve"] = acquisition.inputs["serve"]
    references = {
        field: ArtifactReference(kind=artifact.kind, address=artifact.address)
        for field, artifact in wired.items()
    }
    values = acquisition.node.config.model_dump(exclude={"urls", "serve", "url_list"})
    values |= {field: f"${{artifact:{r.kind}/{r.address}}}" for field, r in references.items()}
    values |= {"parent": newest.address, **settings}
    node = Node(
        name=step.kind,
        step=step,
        config=step.Config.model_validate(values),
        resources=acquisition.node.resources,
        inputs=references,
    )
    return replace(acquisition.recipe, name=f"{acquisition.recipe.name}-{step.kind}", nodes=(node,))


def _take(
    acquisition: Acquisition, recipe: Recipe, arguments: dict[str, Any], *, quiet: bool, tracking: bool
) -> Outcome:
    """Run the one step and write down what it made as the newest snapshot."""
    execution = execute(recipe, acquisition.root, quiet=quiet, tracking=tracking)
    (step,) = execution.record.steps
    made = Artifact.open(Path(step.path))
    acquisition.lineage.append(
        Snapshot(
            address=made.address,
            parent=acquisition.newest.address,
            why=step.kind,
            arguments=arguments,
            when=made.host["finished_at"],
        )
    )
    return Outcome(parent=acquisition.newest, newest=made, execution=execution)
