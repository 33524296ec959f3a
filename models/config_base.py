"""What every configuration of this room can do: JSON in and out, and checks that say expected, got, where."""

import dataclasses
import difflib
import types
import typing
from typing import Any, ClassVar, TypeVar

ConfigT = TypeVar("ConfigT", bound="Config")


class Config:
    """What every configuration can do.  Not a dataclass itself: its children are."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types only: tuples become lists."""
        return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(self)))  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls: type[ConfigT], values: dict[str, Any]) -> ConfigT:
        """Inverse of `to_dict`.  Raises `ValueError` on unknown or missing keys, naming the nearest known
        one."""
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key in values:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
                raise ValueError(f"{cls.__name__}: unknown key {key!r}{hint}")
        required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
        if missing := sorted(required - values.keys()):
            raise ValueError(f"{cls.__name__}: missing {', '.join(missing)}")
        hints = typing.get_type_hints(cls)
        return cls(**{key: _restore(hints[key], value) for key, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _restore(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Config) and isinstance(value, dict):
        return hint.from_dict(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_restore(typing.get_args(hint)[0], v) for v in value)
    if typing.get_origin(hint) is types.UnionType:
        return _restore(_member(typing.get_args(hint), value), value)
    return value


def _member(hints: tuple[Any, ...], value: Any) -> Any:
    """The member of a union that `value` is of: for a list the tuple, for a dict the configuration with the
    fewest keys that it does not know."""
    if isinstance(value, list | tuple):
        return next((hint for hint in hints if typing.get_origin(hint) is tuple), None)
    configs = [hint for hint in hints if isinstance(hint, type) and issubclass(hint, Config)]
    if not configs or not isinstance(value, dict):
        return None
    known = {config: {f.name for f in dataclasses.fields(config)} for config in configs}  # type: ignore[arg-type]
    return min(configs, key=lambda config: len(value.keys() - known[config]))


def check_positive(config: Config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{type(config).__name__}.{name}: expected a positive integer, got {value!r}")


def check_fraction(config: Config, name: str) -> None:
    value = getattr(config, name)
    if not 0 <= value < 1:
        raise ValueError(f"{type(config).__name__}.{name}: expected a number in [0, 1), got {value!r}")


def check_divides(config: Config, name: str, value: int, divisor_name: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(
            f"{type(config).__name__}: {name} ({value}) must be divisible by {divisor_name} ({divisor}), "
            f"remainder {value % divisor}"
        )
