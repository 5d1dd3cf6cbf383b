"""Read recipes: the shipped ones by name, others from a TOML file."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from aid_robot.errors import ConfigError
from aid_robot.training.config import STAGE_DEFAULTS, STAGES, Recipe, StageConfig, StageName
from aid_robot.training.tables import Table, build, check_names, merge, read_assignments

_PLAIN = ("about", "data", "model", "cache", "precision", "seed", "tensorboard", "ablations")
_CONFIGS = resources.files("aid_robot.training") / "configs"


def load_recipe(name_or_path: str, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: A shipped recipe's name, or a TOML file.
        assignments: Changes such as "aid.steps=100".
    """
    name, tables = _read(name_or_path)
    return make_recipe(name, merge(tables, read_assignments(assignments)))


def make_recipe(name: str, tables: Mapping[str, Any]) -> Recipe:
    """Build a recipe from its tables, with all checks."""
    check_names(tables, [*_PLAIN, "stages", *STAGES])
    wanted = tables.get("stages", [])
    if not isinstance(wanted, list):
        raise ConfigError(f"stages={wanted!r} must be a list, such as ['prior', 'aid']")
    for stage in wanted:
        if stage not in STAGES:
            raise ConfigError(f"no training stage '{stage}': {_hint(str(stage), STAGES)}")
    stages = {stage: make_stage_config(stage, tables.get(stage, {})) for stage in wanted}
    return build(
        Recipe,
        {
            "name": name,
            "stages": stages,
            "tables": dict(tables),
            "data": {},
            "model": {},
            "cache": {},
            "about": "",
            **{key: tables[key] for key in _PLAIN if key in tables},
        },
    )


def make_stage_config(name: StageName, table: Mapping[str, Any]) -> StageConfig:
    """Build a stage's settings over its defaults."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"'{name}' is {table!r}; expected a table of names and values")
    return build(StageConfig, {**STAGE_DEFAULTS[name], **table}, name)


def shipped_recipes() -> dict[str, str]:
    """Name the shipped recipes, each with a line about it."""
    names = sorted(
        file.name.removesuffix(".toml")
        for file in _CONFIGS.iterdir()
        if file.name.endswith(".toml")
    )
    return {name: str(_read(name)[1].get("about", "")) for name in names}


def _read(name_or_path: str) -> tuple[str, Table]:
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ConfigError(f"there is no recipe {path}: give a TOML file, or a shipped name")
        name, text = path.stem, path.read_text()
    else:
        file = _CONFIGS / f"{name_or_path}.toml"
        if not file.is_file():
            known = [f.name.removesuffix(".toml") for f in _CONFIGS.iterdir()
                     if f.name.endswith(".toml")]  # fmt: skip
            raise ConfigError(
                f"no recipe '{name_or_path}': {_hint(name_or_path, sorted(known))}, or a TOML file"
            )
        name, text = name_or_path, file.read_text()
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {name_or_path} is not valid TOML: {error}") from error
    base = tables.pop("extends", None)
    if base is not None:
        beside = path.parent / f"{base}.toml"
        found = str(beside) if path.suffix == ".toml" and beside.is_file() else str(base)
        if found == name_or_path:
            raise ConfigError(f"recipe {name_or_path} extends itself")
        tables = merge(_read(found)[1], tables)
    return name, tables


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean '{close[0]}'? " if close else "") + f"Known: {', '.join(known)}"
