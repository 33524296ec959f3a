"""The JSON schema of recipes: the outer shape, and each step's own settings chosen by its `kind`."""

from __future__ import annotations

from typing import Any

from pipelines.registry import STEPS, load_step
from pipelines.step import StepConfig
from workflows.graph import NEWEST_SNAPSHOT, SNAPSHOT
from workflows.recipe import RecipeFile

REFERENCE = r"^\$\{(steps\.[^}]+|artifact:[a-z0-9_]+/[0-9a-f]{8,64})\}$"


def recipe_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a recipe file; steps are told apart by `kind`."""
    schema = RecipeFile.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "another recipe, beside this one, that this one is laid over",
    }
    definitions = schema.setdefault("$defs", {})
    steps: dict[str, str] = {}
    resources: list[dict[str, Any]] = []
    for kind in sorted(STEPS):
        step = load_step(kind)
        definitions |= _definitions(kind, step.Config)
        if step.observes:
            definitions[kind]["properties"]["snapshot"] = {
                "description": "which snapshot stands for the step: the newest, the first, or the one whose "
                "address starts so",
                "pattern": SNAPSHOT,
                "type": "string",
                "default": NEWEST_SNAPSHOT,
            }
        steps[kind] = f"#/$defs/{kind}"
        theirs = step.Resources.model_json_schema()
        if theirs not in resources:
            resources.append(theirs)
    any_step = {
        "oneOf": [{"$ref": reference} for reference in steps.values()],
        "discriminator": {"propertyName": "kind", "mapping": steps},
    }
    for name, values in (("steps", any_step), ("resources", {"anyOf": resources})):
        by_name = schema["properties"][name]
        by_name["patternProperties"] = dict.fromkeys(by_name["patternProperties"], values)
        by_name["additionalProperties"] = False
    return schema


def _definitions(kind: str, config: type[StepConfig]) -> dict[str, Any]:
    """A step's settings with `kind` added, and what they are made of, under the kind's own name."""
    schema = config.model_json_schema(ref_template=f"#/$defs/{kind}.{{model}}")
    nested = {f"{kind}.{name}": definition for name, definition in schema.pop("$defs", {}).items()}
    schema["properties"] = {"kind": {"const": kind}, **schema.get("properties", {})}
    schema["required"] = ["kind", *schema.get("required", [])]
    for value in schema["properties"].values():
        if "artifact_kinds" in value:
            value["description"] = f"wired to: {', '.join(value.pop('artifact_kinds'))}"
            value["pattern"] = REFERENCE
    return {kind: schema, **nested}
