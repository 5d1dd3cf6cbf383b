"""What the robot can be asked to do, and how it can go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from aid_robot.errors import SimulationError

Skill: TypeAlias = Literal["put", "lift", "push", "stack", "open", "close", "move_next_to", "idle"]
Direction: TypeAlias = Literal["left", "right", "forward", "back", ""]
# Deliberate failures, for data that shows what failing looks like.
Failure: TypeAlias = Literal["missed_grasp", "wrong_object", "wrong_target", "dropped"]

SKILLS: tuple[Skill, ...] = get_args(Skill)
DIRECTIONS: tuple[Direction, ...] = ("left", "right", "forward", "back")
FAILURES: tuple[Failure, ...] = get_args(Failure)

# Unit vectors (x, y) in the robot's base frame: +x forward, +y left.
DIRECTION_VECTORS: Mapping[str, tuple[float, float]] = {
    "left": (0.0, 1.0),
    "right": (0.0, -1.0),
    "forward": (1.0, 0.0),
    "back": (-1.0, 0.0),
}
# Which fields a skill has beside its name.
FIELDS: Mapping[Skill, tuple[str, ...]] = {
    "put": ("object", "target"),
    "lift": ("object",),
    "push": ("object", "direction"),
    "stack": ("object", "target"),
    "open": ("object",),
    "close": ("object",),
    "move_next_to": ("object", "target"),
    "idle": (),
}
# Which failures a skill can show.
FAILURES_OF: Mapping[Skill, tuple[Failure, ...]] = {
    "put": FAILURES,
    "lift": ("missed_grasp", "wrong_object", "dropped"),
    "push": ("missed_grasp", "wrong_object", "wrong_target"),
    "stack": FAILURES,
    "open": ("missed_grasp",),
    "close": ("missed_grasp",),
    "move_next_to": FAILURES,
    "idle": (),
}


@dataclass(frozen=True)
class Task:
    """One thing to do, in the names of a scene."""

    skill: Skill
    # What is moved, or the drawer that is opened or closed; "" for idle.
    object: str = ""
    # Where it goes: put on or in, stacked on, moved next to.
    target: str = ""
    # For push, as seen from the camera behind the robot.
    direction: Direction = ""

    def __post_init__(self) -> None:
        if self.skill not in SKILLS:
            raise SimulationError(
                f"'{self.skill}' is not a skill; expected one of {', '.join(SKILLS)}"
            )
        for field in ("object", "target", "direction"):
            given, wanted = bool(getattr(self, field)), field in FIELDS[self.skill]
            if given != wanted:
                raise SimulationError(
                    f"{self} has {'a' if given else 'no'} {field}; the skill '{self.skill}' "
                    f"takes {' and '.join(FIELDS[self.skill]) or 'nothing'}"
                )
        if self.direction and self.direction not in DIRECTIONS:
            raise SimulationError(
                f"'{self.direction}' is not a direction; expected one of {', '.join(DIRECTIONS)}"
            )
        if self.target and self.target == self.object:
            raise SimulationError(f"{self} has one thing as object and as target; expected two")

    def to_json(self) -> dict[str, str]:
        """Return the skill and the fields that it has."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Task:
        """Read what `to_json` wrote."""
        try:
            return cls(**values)
        except TypeError as error:
            raise SimulationError(f"{dict(values)} is not a task: {error}") from error
