"""Read recipes: the shipped ones by name, others from a TOML file."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from aid_robot.errors import ConfigError
from aid_robot.training.config import (
    STAGE_DEFAULTS,
    STAGES,
    CacheConfig,
    DataConfig,
    ModelConfig,
    Recipe,
    StageConfig,
    StageName,
)
from aid_robot.training.tables import Table, build, check_names, merge, read_assignments

_SETTINGS = ("about", "extends", "stages", "precision", "seed", "tensorboard", "ablations")
_PARTS = ("data", "model", "cache")


def load_recipe(name_or_path: str, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: A shipped recipe's name, or a TOML file.
        assignments: Changes such as "aid.steps=100".
    """
    name, tables = _read(name_or_path)
    return recipe_of(name, merge(tables, read_assignments(assignments)))


def recipe_of(name: str, tables: Mapping[str, Any]) -> Recipe:
    """Build a recipe from its tables, with all checks."""
    check_names(tables, [*_SETTINGS, *_PARTS, *STAGES])
    wanted = tables.get("stages", [])
    if not isinstance(wanted, list):
        raise ConfigError(f"stages={wanted!r} must be a list, such as ['prior', 'aid']")
    for stage in wanted:
        if stage not in STAGES:
            close = difflib.get_close_matches(str(stage), STAGES, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise ConfigError(f"no training stage '{stage}': {hint}Known: {', '.join(STAGES)}")
    ablations = tables.get("ablations", {})
    if not isinstance(ablations, Mapping) or not all(
        isinstance(changes, Mapping) for changes in ablations.values()
    ):
        raise ConfigError("[ablations] must hold a table of changes for each variant")
    plain = {
        key: tables[key] for key in ("about", "precision", "seed", "tensorboard") if key in tables
    }
    parts: dict[str, Any] = {
        "name": name,
        "about": "",
        "stages": {stage: stage_of(stage, tables.get(stage, {})) for stage in wanted},
        "data": build(DataConfig, tables.get("data", {}), "data"),
        "model": build(ModelConfig, tables.get("model", {}), "model"),
        "cache": build(CacheConfig, tables.get("cache", {}), "cache"),
        "ablations": ablations,
        "tables": dict(tables),
    }
    return build(_Plain, plain).into(parts)


def stage_of(name: StageName, table: Mapping[str, Any]) -> StageConfig:
    """Build a stage's settings over its defaults."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"'{name}' is {table!r}; expected a table of names and values")
    return build(StageConfig, {**STAGE_DEFAULTS[name], **table}, name)


def shipped() -> dict[str, str]:
    """Name the shipped recipes, each with a line about it."""
    found = {}
    for file in sorted(_folder().iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            name = file.name.removesuffix(".toml")
            found[name] = str(_read(name)[1].get("about", ""))
    return found


from dataclasses import dataclass  # noqa: E402
