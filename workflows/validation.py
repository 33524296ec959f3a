"""Turning pydantic's findings into one line each: where, what was given, what is allowed, what is near."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from workflows.recipe_file import RecipeSource, child
from workflows.refusal import did_you_mean

Location = tuple[str | int, ...]


def problems_of(
    error: ValidationError, model: type[BaseModel], source: RecipeSource, prefix: Location = ()
) -> list[str]:
    """One line for each finding: `file: steps.judge.policy: ...`.

    `prefix` is where in the recipe the value validated by `model` stands.
    """
    schema = model.model_json_schema()
    lines = []
    for details in error.errors(include_url=False):
        location = prefix + _real_keys(details, source.data, prefix)
        text = _describe(details, schema)
        lines.append(f"{source.origin(location)}: {dotted(location)}: {text}")
    return lines


def dotted(location: Sequence[str | int]) -> str:
    """`steps.judge.rules[0].max` for ("steps", "judge", "rules", 0, "max")."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the recipe"


def _describe(details: ErrorDetails, schema: Mapping[str, Any]) -> str:
    given = _short(details["input"])
    match details["type"]:
        case "extra_forbidden":
            key = str(details["loc"][-1])
            known = _names_at(schema, details["loc"][:-1])
            return f"unknown key {key!r}{did_you_mean(key, known)}; known: {', '.join(known)}"
        case "missing":
            return "is required and was not given"
        case "literal_error" | "enum":
            expected = str(details["ctx"]["expected"])
            near = did_you_mean(str(details["input"]), re.findall(r"'([^']+)'", expected))
            return f"given {given}{near}; allowed: {expected}"
        case _:
            wanted = details["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
            return f"given {given}: {wanted}"


def _real_keys(details: ErrorDetails, data: Any, prefix: Location) -> Location:
    """The error's location without the tags that pydantic puts in for members of a union."""
    for part in prefix:
        data = data.get(part, {}) if isinstance(data, dict) else {}
    keys: list[str | int] = []
    last = len(details["loc"]) - 1
    for position, part in enumerate(details["loc"]):
        try:
            data = child(data, part)
        except LookupError:
            if not (position == last and details["type"] == "missing"):
                continue
        keys.append(part)
    return tuple(keys)


def _names_at(schema: Mapping[str, Any], location: Sequence[str | int]) -> list[str]:
    """Property names that a JSON schema allows at `location`."""
    nodes = list(_members(schema, schema))
    for part in location:
        below = [
            member for node in nodes for child in _children(node, part) for member in _members(child, schema)
        ]
        nodes = below or nodes  # a union's tag is no key of the document
    return sorted({name for node in nodes for name in node.get("properties", {})})


def _members(node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The node itself, what it refers to, and the members of its union."""
    if "$ref" in node:
        yield from _members(root["$defs"][node["$ref"].rpartition("/")[2]], root)
        return
    yield node
    for keyword in ("anyOf", "oneOf", "allOf"):
        for member in node.get(keyword, ()):
            yield from _members(member, root)


def _children(node: Mapping[str, Any], part: str | int) -> Iterator[Mapping[str, Any]]:
    if isinstance(part, int):
        items = node.get("items")
        if isinstance(items, dict):
            yield items
        return
    if part in node.get("properties", {}):
        yield node["properties"][part]
    elif isinstance(node.get("additionalProperties"), dict):
        yield node["additionalProperties"]


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
