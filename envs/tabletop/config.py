"""How tabletop scenes are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from typing import Any

from aid_robot.errors import ConfigError


@dataclass(frozen=True)
class TabletopConfig:
    """What a scene holds, and what changes from one to the next."""

    # Things on the table, the drawer among them: at least and at most.
    min_things: int = 3
    max_things: int = 4
    # Kinds to choose from; empty for all.
    kinds: tuple[str, ...] = ()
    # Share of scenes with a drawer.
    drawer: float = 0.3
    vary_colors: bool = True
    vary_table: bool = True
    vary_light: bool = True
    # Camera's shift [m] and turn [rad] at most.
    camera_shift: float = 0.01
    camera_turn: float = 0.02
    # The gripper's place at the start: shift from home at most [m].
    start_shift: float = 0.03

    def __post_init__(self) -> None:
        if not 1 <= self.min_things <= self.max_things <= 6:
            raise ConfigError(
                f"min_things={self.min_things} and max_things={self.max_things}; expected "
                "1 <= min_things <= max_things <= 6"
            )
        if not 0 <= self.drawer <= 1:
            raise ConfigError(f"drawer={self.drawer}; expected a share from 0 to 1")
        for name, most in (("camera_shift", 0.05), ("camera_turn", 0.1), ("start_shift", 0.06)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name}={getattr(self, name)}; expected 0 to {most}")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


PRESETS: Mapping[str, TabletopConfig] = {
    "easy": TabletopConfig(
        min_things=3, max_things=3, drawer=0.0, vary_table=False, vary_light=False,
        camera_shift=0.0, camera_turn=0.0, start_shift=0.0,
    ),
    "default": TabletopConfig(),
    "hard": TabletopConfig(
        min_things=5, max_things=5, drawer=0.4, camera_shift=0.02, camera_turn=0.05,
        start_shift=0.05,
    ),
}  # fmt: skip


def preset(name: str, **changes: Any) -> TabletopConfig:
    """Take a preset by name, with some fields changed."""
    if name not in PRESETS:
        close = get_close_matches(name, PRESETS, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise ConfigError(f"no preset '{name}'{hint}; expected one of {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)
