"""What is where on the tabletop, in plain numbers: what language and goals are judged by.

Everything is in the robot's base frame: metres, +x forward, +y left, +z up, as seen from the camera
behind the robot's shoulder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aid_robot.errors import SimulationError

Vector: TypeAlias = NDArray[np.float64]

# The two names in contacts that are no things.
TABLE = "table"
GRIPPER = "gripper"


@dataclass(frozen=True, eq=False)
class ThingState:
    """One thing, its pose, and its bounding box."""

    # What language calls it, unique in its scene: "red cube", "carrot", "drawer".
    name: str
    # "cube", "ball", "can", "plate", "drawer", ...
    kind: str
    # None where the kind alone says it, as for a carrot.
    color: str | None
    # (3,) centre of the bounding box [m]; a drawer's is that of the part that slides.
    position: Vector
    # (4,) w, x, y, z.
    quaternion: Vector
    # (3,) half extents of the bounding box in the thing's own frame [m].
    half_size: Vector
    # Drawers only: 0 = closed to 1 = open.
    open: float | None = None
    graspable: bool = True
    # Things can be put on or in it.
    container: bool = False

    def __post_init__(self) -> None:
        for field, count in (("position", 3), ("quaternion", 4), ("half_size", 3)):
            # A copy, so that the state stays as it is while the simulation goes on.
            values = np.array(getattr(self, field), np.float64)
            if values.shape != (count,) or not np.isfinite(values).all():
                raise SimulationError(
                    f"{field} of '{self.name}' is {values}; expected {count} finite numbers"
                )
            object.__setattr__(self, field, values)

    @cached_property
    def rotation(self) -> Vector:
        """Rotation matrix (3, 3) from the thing's own frame to the base frame."""
        w, x, y, z = self.quaternion / np.linalg.norm(self.quaternion)
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )

    @cached_property
    def extent(self) -> Vector:
        """Half extents (3,) along the base frame's axes [m]."""
        if self.kind == "ball":  # the box turns with it, but no ball is larger across
            return self.half_size
        return np.asarray(np.abs(self.rotation) @ self.half_size)

    @property
    def top(self) -> float:
        """Height of the highest point [m]."""
        return float(self.position[2] + self.extent[2])

    @property
    def bottom(self) -> float:
        """Height of the lowest point [m]."""
        return float(self.position[2] - self.extent[2])


@dataclass(frozen=True, eq=False)
class SceneState:
    """A moment of the scene."""

    things: tuple[ThingState, ...]
    # (7,) x, y, z [m], roll, pitch, yaw [rad], opening in [0, 1] with 1 = open.
    gripper: Vector
    # Name of what the gripper holds.
    held: str | None = None
    # Pairs of names that touch, "table" and "gripper" among them, each pair in either order.
    contacts: frozenset[tuple[str, str]] = frozenset()
    # Height of the table's surface [m].
    table: float = 0.0

    def __post_init__(self) -> None:
        gripper = np.array(self.gripper, np.float64)
        if gripper.shape != (7,) or not np.isfinite(gripper).all():
            raise SimulationError(f"the gripper's state is {gripper}; expected 7 finite numbers")
        object.__setattr__(self, "gripper", gripper)
        names = [thing.name for thing in self.things]
        if len(set(names)) < len(names):
            raise SimulationError(f"two things of a scene have one name: {', '.join(names)}")
        if self.held is not None:
            self[self.held]

    @property
    def names(self) -> tuple[str, ...]:
        """The things' names."""
        return tuple(thing.name for thing in self.things)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> ThingState:
        """Return the thing called `name`; raise SimulationError where there is none."""
        for thing in self.things:
            if thing.name == name:
                return thing
        close = get_close_matches(name, self.names, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise SimulationError(
            f"the scene has no '{name}'{hint}; it has {', '.join(self.names) or 'nothing'}"
        )

    def touch(self, first: str, second: str) -> bool:
        """Say whether two names are in contact."""
        return (first, second) in self.contacts or (second, first) in self.contacts

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON-able values, rounded to a tenth of a millimetre."""
        return {
            "things": [
                {
                    "name": thing.name,
                    "kind": thing.kind,
                    "color": thing.color,
                    "position": _rounded(thing.position),
                    "quaternion": _rounded(thing.quaternion),
                    "half_size": _rounded(thing.half_size),
                    "open": None if thing.open is None else round(float(thing.open), 4),
                    "graspable": bool(thing.graspable),
                    "container": bool(thing.container),
                }
                for thing in self.things
            ],
            "gripper": _rounded(self.gripper),
            "held": self.held,
            "contacts": sorted(list(pair) for pair in self.contacts),
            "table": round(float(self.table), 4),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SceneState:
        """Read what `to_json` wrote."""
        try:
            return cls(
                things=tuple(ThingState(**thing) for thing in values["things"]),
                gripper=np.asarray(values["gripper"], np.float64),
                held=values["held"],
                contacts=frozenset((first, second) for first, second in values["contacts"]),
                table=values["table"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SimulationError(
                f"this is not the JSON of a scene's state ({error}); expected what "
                "SceneState.to_json wrote"
            ) from error


def _rounded(values: ArrayLike) -> list[float]:
    numbers: Iterable[float] = np.asarray(values, np.float64).tolist()
    return [round(number, 4) for number in numbers]
