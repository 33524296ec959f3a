"""Reading recipe files: YAML, `extends:`, and `--set a.b=c`, with every value's origin kept for messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workflows.refusal import Refusal, did_you_mean

PACKAGED = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One source of values: a file, or one `--set`."""

    label: str
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RecipeSource:
    """The merged mapping of a recipe and the layers it came from, lowest first."""

    path: Path
    data: dict[str, Any]
    layers: tuple[Layer, ...]

    def origin(self, location: Sequence[str | int]) -> str:
        """Label of the last layer that reaches deepest along `location`: where the user must look."""
        depths = [(_depth(layer.data, location), i) for i, layer in enumerate(self.layers)]
        return self.layers[max(depths)[1]].label


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads `1e-3` as a number (YAML 1.1 reads it as text)."""


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> RecipeSource:
    """Read a recipe by path, or by the name of a packaged one, and lay `overrides` over it.

    Raises `Refusal` where a file is missing or is no mapping, the YAML is broken, `extends` runs in a
    circle, or an override names what is not there.
    """
    path = _find(str(recipe))
    layers = _file_layers(path, seen=())
    data: dict[str, Any] = {}
    for layer in layers:
        data = merge(data, layer.data)
    for override in overrides:
        layer = _override_layer(override, data)
        layers.append(layer)
        data = merge(data, layer.data)
    return RecipeSource(path=path, data=data, layers=tuple(layers))


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` laid over `base`: mappings are merged, everything else (lists too) is replaced."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def child(data: Any, part: str | int) -> Any:
    """The value under a key of a mapping or at a position of a list; raises `LookupError`."""
    if isinstance(data, dict):
        return data[part]
    if isinstance(data, list) and isinstance(part, int):
        return data[part]
    raise LookupError(part)


def parse_yaml(text: str, label: str) -> Any:
    """The value of a YAML text; raises `Refusal` naming line and column of what is broken."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        begun = error.context_mark
        since = f" ({error.context} begun in line {begun.line + 1})" if begun and error.context else ""
        raise Refusal(f"{label}{where}: broken YAML: {error.problem or error.context}{since}") from None
    except yaml.YAMLError as error:
        raise Refusal(f"{label}: broken YAML: {' '.join(str(error).split())}") from None


def _find(recipe: str) -> Path:
    path = Path(recipe)
    if path.is_file():
        return path
    packaged = {p.stem: p for p in sorted(PACKAGED.glob("*.yaml"))}
    if recipe in packaged:
        return packaged[recipe]
    if path.is_dir():
        raise Refusal(f"recipe {recipe}: is a folder, expected a YAML file")
    names = ", ".join(packaged) or "none"
    raise Refusal(
        f"recipe {recipe}: no such file{did_you_mean(path.stem, packaged)}; packaged recipes: {names}"
    )


def _file_layers(path: Path, seen: tuple[Path, ...]) -> list[Layer]:
    """The layers of a file, those it extends first."""
    resolved = path.resolve()
    if resolved in seen:
        circle = " -> ".join(p.name for p in (*seen, resolved))
        raise Refusal(f"{path}: extends: files extend each other in a circle: {circle}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"recipe {path}: cannot be read: {error}") from None
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise Refusal(f"{path}: expected a mapping with schema_version, name and steps, got {_kind(data)}")
    base = data.pop("extends", None)
    below: list[Layer] = []
    if base is not None:
        base_path = path.parent / str(base)
        if not base_path.is_file():
            raise Refusal(f"{path}: extends: no such file {base_path}")
        below = _file_layers(base_path, (*seen, resolved))
    return [*below, Layer(label=str(path), data=data)]


def _override_layer(override: str, data: Mapping[str, Any]) -> Layer:
    """The nested mapping that `a.b=c` stands for; `data` says which steps there are."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    label = f"--set {override}"
    if not equals or not all(keys):
        raise Refusal(f"{label}: expected a.b=value, as in steps.decoder.steps=100")
    below: Any = data
    for depth, key in enumerate(keys[:-1]):
        here = ".".join(keys[: depth + 1])
        if isinstance(below, dict) and key not in below and keys[0] in ("steps", "resources") and depth == 1:
            known = data.get("steps", {})
            if keys[0] == "steps" or key not in known:
                raise Refusal(
                    f"{label}: no step {key!r}{did_you_mean(key, known)}; steps: {', '.join(known)}"
                )
        below = below.get(key, {}) if isinstance(below, dict) else below
        if not isinstance(below, dict):
            raise Refusal(f"{label}: {here} is {_kind(below)}, not a mapping: set it as a whole")
    value = parse_yaml(text, label)
    for key in reversed(keys):
        value = {key: value}
    return Layer(label=label, data=value)


def _depth(data: Any, location: Sequence[str | int]) -> int:
    for depth, part in enumerate(location):
        try:
            data = child(data, part)
        except LookupError:
            return depth
    return len(location)


def _kind(value: Any) -> str:
    names = {type(None): "nothing", list: "a list", str: "text", bool: "a truth value"}
    return names.get(type(value), f"{value!r}")
