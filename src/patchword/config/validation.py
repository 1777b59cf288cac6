"""Checks values against the annotations of a dataclass; converts dataclasses to and from JSON."""

from __future__ import annotations

import dataclasses
import functools
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from patchword.errors import ConfigError
from patchword.options import nearest

T = typing.TypeVar("T")
LARGEST = 10**300  # whole number that is converted to a float
TYPE_NAMES: dict[Any, str] = {  # names of types in errors
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
}


@dataclass(frozen=True)
class Within:
    """The range of a number, ends included: `Annotated[int, Within(1, 8)]`."""

    least: float
    most: float


def settle(config: Any) -> None:
    """Convert each field of a frozen dataclass to its annotated type (a list to a tuple, 1 to 1.0).

    For `__post_init__`. Raises ConfigError, which names the field, for a value of another type or
    out of its range.
    """
    kind: type = type(config)
    for name, hint in _hints(kind).items():
        value = _typed(hint, getattr(config, name), f"{kind.__name__}.{name}")
        object.__setattr__(config, name, value)


def contradictions(config: Any, *checks: tuple[object, str]) -> None:
    """Raise ConfigError for the first of the checks (condition, message) whose condition is
    true."""
    for is_wrong, message in checks:
        if is_wrong:
            raise ConfigError(f"{type(config).__name__}: {message}")


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON values, with the `kind` of a tower. `from_dict` is the inverse."""
    cls: type = type(config)
    values: dict[str, Any] = {}
    if "kind" in _class_variables(cls):
        values["kind"] = config.kind
    for each in dataclasses.fields(config):
        values[each.name] = _to_json(getattr(config, each.name))
    return values


def from_dict(cls: type[T], values: Mapping[str, Any], within: str = "") -> T:
    """Build the dataclass `cls` from JSON values. within: prefix of a field's name in errors.

    Raises ConfigError for unknown and missing fields, and for values that do not fit.
    """
    dataclass: type = cls
    hints = _hints(dataclass)
    unknown = sorted(str(name) for name in set(values) - set(hints))
    if unknown:
        raise ConfigError(
            f"{cls.__name__} has no field {', '.join(unknown)}{nearest(unknown[0], hints)}; it has "
            f"{', '.join(sorted(hints))}"
        )
    required = {f.name for f in dataclasses.fields(cls) if _required(f)}  # type: ignore[arg-type]
    missing = sorted(required - set(values))
    if missing:
        raise ConfigError(f"{cls.__name__}: {', '.join(missing)} missing")
    prefix = f"{within}." if within else ""
    return cls(
        **{name: _typed(hints[name], value, f"{prefix}{name}") for name, value in values.items()}
    )


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _to_json(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(map(_to_json, value))
    return value


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The annotation of each field."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@functools.cache
def _class_variables(cls: type) -> frozenset[str]:
    hints = typing.get_type_hints(cls)
    return frozenset(name for name, hint in hints.items() if typing.get_origin(hint) is ClassVar)


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _typed(hint: Any, value: Any, name: str) -> Any:
    """`value` converted to the annotation `hint`. Raises ConfigError if it does not fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _inside(arguments[1], _typed(arguments[0], value, name), name)
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value, name)
    if origin is Literal:
        if value not in arguments:
            choices = ", ".join(map(repr, arguments))
            raise ConfigError(f"{name} is {reprlib.repr(value)}; it must be one of {choices}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(value)
        if len(arguments) == len(value):
            pairs = zip(arguments, value, strict=True)
            return tuple(_typed(item_hint, item, name) for item_hint, item in pairs)
    if origin is Mapping and isinstance(value, Mapping):
        key_hint, item_hint = arguments
        return {
            _typed(key_hint, key, name): _typed(item_hint, item, f"{name}.{key}")
            for key, item in value.items()
        }
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value, name)  # type: ignore[arg-type]
    return _simple(hint, value, name)


def _simple(hint: Any, value: Any, name: str) -> Any:
    """`_typed` for a type without parts. A whole number is a float too; a bool is neither."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if hint is int and isinstance(value, int):
            return value
        if hint is float and (isinstance(value, float) or abs(value) <= LARGEST):
            return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and hint is not int:
        return value
    wanted = TYPE_NAMES.get(hint, f"a {getattr(hint, '__name__', hint)}")
    raise ConfigError(f"{name} is {reprlib.repr(value)}, which is not {wanted}")


def _inside(bounds: Within, value: Any, name: str) -> Any:
    if not bounds.least <= value <= bounds.most:  # true for NaN too
        least, most = (f"{bound:,.12g}" for bound in (bounds.least, bounds.most))
        raise ConfigError(f"{name} is {reprlib.repr(value)}; it must be from {least} to {most}")
    return value


def _one_of(hints: tuple[Any, ...], value: Any, name: str) -> Any:
    """`_typed` for an optional type, or for one of several dataclasses with different `kind`."""
    choices = [hint for hint in hints if hint is not type(None)]
    if value is None and len(choices) < len(hints):
        return None
    if len(choices) == 1:
        return _typed(choices[0], value, name)
    if not isinstance(value, Mapping):
        if isinstance(value, tuple(choices)):
            return value
        raise ConfigError(f"{name} is {reprlib.repr(value)}, which is not a table of values")
    kinds = {hint.kind: hint for hint in choices}
    kind = value.get("kind", choices[0].kind)
    if not isinstance(kind, str) or kind not in kinds:
        known = ", ".join(map(repr, kinds))
        raise ConfigError(f"{name}.kind is {reprlib.repr(kind)}; it must be one of {known}")
    fields = {key: item for key, item in value.items() if key != "kind"}
    return from_dict(kinds[kind], fields, name)
