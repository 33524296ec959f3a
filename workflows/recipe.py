"""Recipes: YAML that names steps and wires them, validated whole before anything is done with it.

A recipe::

    schema_version: 1
    name: demo
    extends: other.yaml                # optional: mappings are merged, the rest replaced
    steps:
      site: {kind: openmoji_site, images: 1700}
      acquire:
        kind: acquire
        snapshot: newest               # the default; or `first`, or the start of a snapshot's address
        urls: ${steps.site}            # or pinned: ${artifact:urls/0123456789abcdef}
    resources:                         # what cannot change bytes; enters no digest
      acquire: {workers: 2}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from filters.weights import WeightsError
from infra.digests import digest_of
from pipelines.registry import STEPS, UnknownStepError, load_step
from pipelines.step import Resources, Step, StepConfig, file_fields, input_kinds
from workflows.graph import (
    FIRST_SNAPSHOT,
    NEWEST_SNAPSHOT,
    SNAPSHOT,
    Node,
    Reference,
    find_cycle,
    in_order,
    parse_reference,
    wiring_problem,
)
from workflows.recipe_file import RecipeSource, read_recipe
from workflows.refusal import Refusal, did_you_mean
from workflows.validation import problems_of

StepName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


class RecipeFile(BaseModel):
    """The outer shape of a recipe; each step's own keys are validated by the step's config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    name: Name
    description: str = ""
    model_name: Name | None = Field(default=None, description="registered as; the recipe's name by default")
    steps: dict[StepName, dict[str, Any]] = Field(min_length=1)
    resources: dict[StepName, dict[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A valid recipe.  `nodes` are in the order of execution."""

    path: Path
    name: str
    description: str
    model_name: str
    nodes: tuple[Node, ...]

    def node(self, name: str) -> Node:
        """The step called `name`; raises `Refusal` naming the nearest one."""
        for node in self.nodes:
            if node.name == name:
                return node
        names = [node.name for node in self.nodes]
        raise Refusal(f"no step {name!r}{did_you_mean(name, names)}; steps: {', '.join(names)}")

    def node_of(self, kind: str, name: str | None = None) -> Node:
        """The step called `name`, or without one the only step of this kind; raises `Refusal`."""
        found = [node for node in self.nodes if node.step.kind == kind]
        if name is not None:
            node = self.node(name)
            if node not in found:
                raise Refusal(f"--step {name}: is of kind {node.step.kind}, expected {kind}")
            return node
        if len(found) != 1:
            names = ", ".join(node.name for node in found) or "none"
            raise Refusal(f"recipe {self.name}: expected one {kind} step, got {names}; name it: --step")
        return found[0]

    @property
    def needs(self) -> dict[str, list[str]]:
        """Step name -> names of the steps it takes artifacts from, in execution order."""
        return {node.name: node.needs for node in self.nodes}

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default filled in and every override applied, as it can be run again."""
        data: dict[str, Any] = {"schema_version": 1, "name": self.name, "model_name": self.model_name}
        if self.description:
            data["description"] = self.description
        data["steps"] = {
            n.name: {"kind": n.step.kind, **n.config.model_dump(mode="json")} for n in self.nodes
        }
        resources = {n.name: n.resources.model_dump(mode="json") for n in self.nodes}
        data["resources"] = {name: values for name, values in resources.items() if values}
        for n in self.nodes:
            if n.snapshot != NEWEST_SNAPSHOT:
                data["steps"][n.name]["snapshot"] = n.snapshot
        return data

    def run_id(self) -> str:
        """Identity of a run of this recipe: its resolved steps with their versions and outside facts.

        Resources and the description are left out: they cannot change what is made.
        """
        steps = {}
        for node in self.nodes:
            try:
                identity = node.step.identity(node.config)
            except (OSError, ValueError, WeightsError) as error:  # a policy or weights that it digests
                raise Refusal(f"steps.{node.name}: {error}") from None
            config = node.config.model_dump(mode="json", exclude=set(file_fields(type(node.config))))
            steps[node.name] = {"kind": node.step.kind, "version": node.step.version, "config": config}
            steps[node.name]["identity"] = identity
            if node.snapshot != NEWEST_SNAPSHOT:
                steps[node.name]["snapshot"] = node.snapshot
        return digest_of({"name": self.name, "model_name": self.model_name, "steps": steps})[:16]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe; raises `Refusal` listing every problem found."""
    source = read_recipe(path, overrides)
    head = _head(source)
    problems: list[str] = []
    steps = _steps(head, source, problems)
    makes = {name: step.produces for name, step in steps.items()}
    nodes = {}
    for name, step in steps.items():
        node = _node(name, step, head, source, problems)
        if node is not None:
            problems += _wiring_problems(node, makes, source)
            nodes[name] = node
    for name in head.resources:
        if name not in head.steps:
            where = _where(source, "resources", name)
            problems.append(f"{where}: no step {name!r}{did_you_mean(name, head.steps)}")
    if problems:
        raise Refusal(problems)
    needs = {name: node.needs for name, node in nodes.items()}
    if cycle := find_cycle(needs):
        where = _where(source, "steps", cycle[0])
        raise Refusal(f"{where}: cyclic wiring: {' -> '.join(cycle)} (each is an input of the next)")
    return Recipe(
        path=source.path,
        name=head.name,
        description=head.description,
        model_name=head.model_name or head.name,
        nodes=tuple(nodes[name] for name in in_order(needs)),
    )


def _head(source: RecipeSource) -> RecipeFile:
    try:
        return RecipeFile.model_validate(source.data)
    except ValidationError as error:
        raise Refusal(problems_of(error, RecipeFile, source)) from None


def _steps(head: RecipeFile, source: RecipeSource, problems: list[str]) -> dict[str, Step[Any, Any]]:
    """The step objects by name; steps of unknown or unloadable kind are reported and left out."""
    steps = {}
    for name, values in head.steps.items():
        where = _where(source, "steps", name)
        kind = values.get("kind")
        if not isinstance(kind, str):
            problems.append(f"{where}: kind is required; known kinds: {', '.join(STEPS)}")
            continue
        try:
            steps[name] = load_step(kind)
        except UnknownStepError as error:
            problems.append(f"{where}.kind: {error}")
        except ImportError as error:
            fix = (
                "run `unclip doctor`" if isinstance(error, ModuleNotFoundError) else "is it installed whole?"
            )
            problems.append(f"{where}.kind: step kind {kind!r} cannot be loaded: {error}; {fix}")
    return steps


def _node(
    name: str, step: Step[Any, Any], head: RecipeFile, source: RecipeSource, problems: list[str]
) -> Node | None:
    values = {key: value for key, value in head.steps[name].items() if key != "kind"}
    snapshot = values.pop("snapshot", NEWEST_SNAPSHOT) if step.observes else NEWEST_SNAPSHOT
    for field in values.keys() & set(file_fields(step.Config)):
        values[field] = _beside(source.path, values[field])
    found: list[str] = []
    if not isinstance(snapshot, str) or not re.match(SNAPSHOT, snapshot):
        found.append(
            f"{_where(source, 'steps', name, 'snapshot')}: given {snapshot!r}; expected {NEWEST_SNAPSHOT}, "
            f"{FIRST_SNAPSHOT} or the start of an address (8 to 64 hexadecimal digits, in quotes)"
        )
    config: StepConfig | None = None
    resources: Resources | None = None
    try:
        config = step.Config.model_validate(values)
    except ValidationError as error:
        found += problems_of(error, step.Config, source, ("steps", name))
    try:
        resources = step.Resources.model_validate(head.resources.get(name, {}))
    except ValidationError as error:
        found += problems_of(error, step.Resources, source, ("resources", name))
    if config is not None:
        found += _stray_references(name, config, source)
    problems += found
    if found or config is None or resources is None:
        return None
    inputs: dict[str, Reference] = {}
    for field in input_kinds(step.Config):
        text = getattr(config, field)
        if text is None:
            continue
        reference = parse_reference(str(text))
        if isinstance(reference, str):
            problems.append(f"{_where(source, 'steps', name, field)}: {reference}")
            return None
        inputs[field] = reference
    return Node(
        name=name, step=step, config=config, resources=resources, inputs=inputs, snapshot=str(snapshot)
    )


def _beside(recipe: Path, value: Any) -> Any:
    """A file's name, or several (a list, a mapping), with its place beside the recipe where there is such a
    file or glob."""
    if isinstance(value, list):
        return [_beside(recipe, entry) for entry in value]
    if isinstance(value, dict):
        return {key: _beside(recipe, entry) for key, entry in value.items()}
    if not isinstance(value, str):
        return value
    path = recipe.parent / value
    return str(path.absolute()) if path.exists() or any(recipe.parent.glob(value)) else value


def _wiring_problems(node: Node, makes: Mapping[str, str], source: RecipeSource) -> list[str]:
    accepted = input_kinds(type(node.config))
    problems = []
    for field, reference in node.inputs.items():
        problem = wiring_problem(reference, accepted[field], makes, node.name)
        if problem:
            problems.append(f"{_where(source, 'steps', node.name, field)}: {problem}")
    return problems


def _stray_references(name: str, config: StepConfig, source: RecipeSource) -> list[str]:
    """A reference in a field that is no input would silently be text."""
    inputs = input_kinds(type(config))
    rest = {key: value for key, value in config.model_dump(mode="json").items() if key not in inputs}
    return [
        f"{_where(source, 'steps', name, *path)}: {text!r} is no input; inputs of this step: "
        f"{', '.join(inputs) or 'none'}"
        for path, text in _texts(rest)
        if text.startswith("${")
    ]


def _texts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, below in value.items():
            yield from _texts(below, (*path, str(key)))
    elif isinstance(value, list):
        for position, below in enumerate(value):
            yield from _texts(below, (*path, str(position)))


def _where(source: RecipeSource, *location: str) -> str:
    return f"{source.origin(location)}: {'.'.join(location)}"
