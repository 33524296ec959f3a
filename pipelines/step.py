"""What a step is: a frozen config, the artifacts it takes, and `run(context)`.

To add one: write a `StepConfig` and a `Step` in a new file under `pipelines/`, add one line to
`pipelines/registry.py`.  A step writes into `context.draft` and returns a summary of plain figures; the
runner alone decides whether it runs, writes the manifest, and tracks it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from infra.digests import digest_of
from infra.forget import ForgetList
from infra.journal import Journal
from infra.progress import Progress
from infra.store import Artifact, Draft, Rows


class StepConfig(BaseModel):
    """Everything that can change a step's bytes.  Unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(BaseModel):
    """What cannot change a step's bytes: number of workers, CPUs, GPUs, prefetch.  Enters no digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def input_of(*kinds: str, optional: bool = False) -> Any:
    """A config field wired to an artifact of one of `kinds`: `corpus: ${steps.acquire}` in a recipe."""
    extra: dict[str, Any] = {"artifact_kinds": list(kinds)}
    if optional:
        return Field(default=None, json_schema_extra=extra)
    return Field(json_schema_extra=extra)


def file_beside_recipe(default: Any) -> Any:
    """A config field that names a file, or several: looked for beside the recipe first, then by the step.

    The step's `identity` digests what is in the file; where it lies enters no digest.
    """
    return Field(default=default, json_schema_extra={"file": True})


def file_fields(config: type[StepConfig]) -> list[str]:
    """Names of a config's fields made by `file_beside_recipe`."""
    extras = {name: info.json_schema_extra for name, info in config.model_fields.items()}
    return [name for name, extra in extras.items() if isinstance(extra, dict) and "file" in extra]


def input_kinds(config: type[StepConfig]) -> dict[str, tuple[str, ...]]:
    """Names of a config's input fields, with the artifact kinds each accepts."""
    kinds = {}
    for name, info in config.model_fields.items():
        if isinstance(info.json_schema_extra, dict) and "artifact_kinds" in info.json_schema_extra:
            kinds[name] = tuple(str(k) for k in info.json_schema_extra["artifact_kinds"])  # type: ignore[union-attr]
    return kinds


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a step is expected to handle and cost: rows, bytes on disk, seconds on this machine."""

    rows: int = 0
    disk_bytes: int = 0
    seconds: float = 0.0


ConfigT = TypeVar("ConfigT", bound=StepConfig)
ResourcesT = TypeVar("ResourcesT", bound=Resources)


@dataclass(frozen=True, kw_only=True)
class Context(Generic[ConfigT, ResourcesT]):
    """What a running step is given."""

    config: ConfigT
    resources: ResourcesT
    inputs: Mapping[str, Artifact]
    """Finished artifacts by the config's input field names; optional inputs left out are absent."""
    draft: Draft
    journal: Journal
    progress: Progress
    fixed_rows: list[Rows] = field(default_factory=list)
    """A step without shards appends its one row account here."""


class Step(ABC, Generic[ConfigT, ResourcesT]):
    """One artifact out.  Stateless: everything is in the context.

    Class attributes:
        kind: the name in recipes (`kind: acquire`).
        produces: the artifact kind, and the folder in the store.
        version: raised by hand whenever the bytes written for the same config and inputs change.
        observes: its artifact is a dated observation, which later snapshots may take the place of.
        forgets: the input whose forgotten rows it leaves out; the forget list then enters its address.
    """

    kind: ClassVar[str]
    produces: ClassVar[str]
    version: ClassVar[int]
    observes: ClassVar[bool] = False
    Config: ClassVar[type[StepConfig]]
    Resources: ClassVar[type[Resources]] = Resources
    forgets: ClassVar[str | None] = None

    def identity(self, config: ConfigT) -> dict[str, Any]:  # noqa: ARG002
        """Facts outside the config that change the bytes: digests of a policy file, of weights."""
        return {}

    def check(self, config: ConfigT) -> list[str]:  # noqa: ARG002
        """Problems that can be seen before any work; one clear line each."""
        return []

    def check_inputs(self, config: ConfigT, inputs: Mapping[str, Artifact]) -> list[str]:  # noqa: ARG002
        """Problems that show only once the inputs are made; one clear line each."""
        return []

    def check_makers(self, config: ConfigT, makers: Mapping[str, StepConfig]) -> list[str]:  # noqa: ARG002
        """Problems that the configs of the steps that make the inputs show, by input; one clear line each."""
        return []

    def estimate(self, config: ConfigT, inputs: Mapping[str, Estimate]) -> Estimate:  # noqa: ARG002
        """Expected cost.  By default the rows of the largest input, at no cost worth a line in a plan."""
        return Estimate(rows=max((estimate.rows for estimate in inputs.values()), default=0))

    @abstractmethod
    def run(self, context: Context[ConfigT, ResourcesT]) -> dict[str, Any]:
        """Write the artifact into `context.draft`, going on from what is committed there.

        Returns the summary: a flat dict of JSON-able, deterministic figures (no times); numbers in it
        become metrics of the run, `step/name`.
        """


def step_config(config: StepConfig) -> dict[str, Any]:
    """The config as it enters the digest: JSON, without the input wiring and without places of files."""
    elsewhere = {*input_kinds(type(config)), *file_fields(type(config))}
    return {k: v for k, v in config.model_dump(mode="json").items() if k not in elsewhere}


def input_contents(step: Step[Any, Any], inputs: Mapping[str, Artifact]) -> dict[str, str]:
    """What of its inputs enters a step's address: content digests, and the forget list if it heeds that."""
    contents = {name: artifact.content for name, artifact in inputs.items()}
    if step.forgets is not None and step.forgets in inputs:
        forgotten = ForgetList.open(inputs[step.forgets].path.parents[1])
        if forgotten:
            contents["forgotten"] = forgotten.digest
    return contents


def step_address(step: Step[Any, Any], config: StepConfig, contents: Mapping[str, str]) -> str:
    """A step's address: digest of kind, version, config, identity and `input_contents`."""
    return digest_of(
        {
            "kind": step.kind,
            "version": step.version,
            "config": step_config(config),
            "identity": step.identity(config),
            "inputs": dict(contents),
        }
    )


def package_file(path: str) -> Path:
    """Resolve a file named in a recipe: absolute or in the current folder, or in the packages."""
    candidates = [Path(path), Path(__file__).parent.parent / path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"file {path!r} not found; looked at {', '.join(map(str, candidates))}")
