"""Build frozen dataclasses from TOML's tables; an unknown name answers "did you mean"."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from aid_robot.errors import ConfigError

T = TypeVar("T")
Table = dict[str, Any]


def build(cls: type[T], table: Any, name: str = "") -> T:
    """Build a dataclass from a table; nested dataclasses from tables within.

    Args:
        cls: A dataclass.
        table: Names and values; those left out keep their defaults.
        name: Of the table, for messages.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"'{name}' is {table!r}; expected a table of names and values")
    types_of = get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    check_names(table, known, name)
    prefix = f"{name}." if name else ""
    values = {key: _converted(value, types_of[key], prefix + key) for key, value in table.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"[{name}] {error}" if name else str(error)) from error


def check_names(names: Iterable[str], known: Iterable[str], where: str = "") -> None:
    """Refuse a name that isn't known, and say which one was probably meant."""
    known, prefix = list(known), f"{where}." if where else ""
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{prefix}{close[0]}'? " if close else ""
            raise ConfigError(f"'{prefix}{name}' is not a setting: {hint}Known: {', '.join(known)}")


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Table:
    """Lay one table over another; tables within are merged alike."""
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def from_dotted(changes: Mapping[str, Any]) -> Table:
    """Turn {"aid.steps": 5} into {"aid": {"steps": 5}}."""
    table: Table = {}
    for path, value in changes.items():
        *parents, last = path.split(".")
        inner: Table = {last: value}
        for parent in reversed(parents):
            inner = {parent: inner}
        table = merge(table, inner)
    return table


def read_assignments(texts: Iterable[str]) -> Table:
    """Read `--set key.name=value` texts; a value that isn't TOML is taken as text."""
    changes: Table = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {text} is no assignment; write --set aid.steps=100")
        try:
            changes[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            changes[name.strip()] = value.strip()
    return from_dotted(changes)


def _converted(value: Any, kind: Any, name: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        problems = []
        for option in args:
            try:
                return _converted(value, option, name)
            except ConfigError as error:
                problems.append(error)
        raise problems[0]
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{name}={value!r} must be one of {', '.join(map(repr, args))}")
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, name)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name}={value!r} must be a list")
        return tuple(_converted(item, args[0], name) for item in value)
    if origin in (dict, Mapping) or kind is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"'{name}' is {value!r}; expected a table of names and values")
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        kind is types.NoneType
        or not isinstance(value, kind)
        or (isinstance(value, bool) and kind is not bool)
    ):
        wanted = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise ConfigError(f"{name}={value!r} must be {wanted.get(kind, 'left out')}")
    return value
