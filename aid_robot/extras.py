"""The one place that knows which extra brings which optional package."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from aid_robot.errors import MissingDependencyError


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or raise with the exact command that installs it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingDependencyError(
            f"'{module}' is not installed and this feature needs it: "
            f"pip install 'aid-robot[{extra}]'"
        ) from error
