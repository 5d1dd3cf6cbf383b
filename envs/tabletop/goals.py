"""What a task is to bring about, as predicates over states of the scene.

Tolerances are in metres, here and in `relations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aid_robot.envs.tabletop.names import VESSELS, kind_of
from aid_robot.envs.tabletop.relations import (
    CLOSED,
    NEXT_GAP,
    OPEN,
    SIDE_DISTANCE,
    clearance,
    gap,
    is_in,
    is_on,
    is_over,
    offset,
)
from aid_robot.envs.tabletop.state import GRIPPER, SceneState, ThingState
from aid_robot.envs.tabletop.tasks import DIRECTION_VECTORS, Task
from aid_robot.errors import SimulationError

# A lifted thing is at least this far above where it rested.
LIFT_HEIGHT = 0.040
# A pushed thing has moved at least this far, and farther along than across.
PUSH_DISTANCE = 0.040
# What a task leaves in place has moved at most this far: the target, and all others when idle.
TARGET_SHIFT = 0.040
STILL_SHIFT = 0.010
# A thing that was pushed is as high above the table as it was.
_LEVEL = 0.015
# Things that are this far apart are clearly not on or next to each other.
_APART_GAP = 0.010
_FAR_GAP = 0.080

SIDES: Mapping[str, tuple[float, float]] = {
    "left_of": DIRECTION_VECTORS["left"],
    "right_of": DIRECTION_VECTORS["right"],
    "in_front_of": DIRECTION_VECTORS["back"],
    "behind": DIRECTION_VECTORS["forward"],
}
MOVES: Mapping[str, tuple[float, float]] = {
    f"moved_{direction}": vector for direction, vector in DIRECTION_VECTORS.items()
}
# Predicates with the number of things they are about. The moves and "unchanged" compare with a
# state before.
PREDICATES: Mapping[str, int] = {
    "on": 2,
    "in": 2,
    "next_to": 2,
    **dict.fromkeys(SIDES, 2),
    "lifted": 1,
    "held": 1,
    "gripper_empty": 0,
    "open": 1,
    "closed": 1,
    **dict.fromkeys(MOVES, 1),
    "unchanged": 0,
}


@dataclass(frozen=True)
class Goal:
    """A statement about the scene: `Goal("on", ("carrot", "plate"))`."""

    predicate: str
    # Names of things.
    args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.predicate not in PREDICATES:
            raise SimulationError(
                f"'{self.predicate}' is not a predicate; expected one of {', '.join(PREDICATES)}"
            )
        if len(self.args) != PREDICATES[self.predicate] or len(set(self.args)) < len(self.args):
            raise SimulationError(
                f"'{self.predicate}' is about {PREDICATES[self.predicate]} different things, not "
                f"{self.args}"
            )

    @property
    def needs_before(self) -> bool:
        """Say whether it compares with a state before."""
        return self.predicate in MOVES or self.predicate == "unchanged"

    def to_json(self) -> list[str]:
        """Return the predicate and its arguments."""
        return [self.predicate, *self.args]


def goal_of(task: Task) -> Goal:
    """Return what holds when a task is done."""
    match task.skill:
        case "put":
            predicate = "in" if kind_of(task.target) in VESSELS else "on"
            return Goal(predicate, (task.object, task.target))
        case "stack":
            return Goal("on", (task.object, task.target))
        case "move_next_to":
            return Goal("next_to", (task.object, task.target))
        case "push":
            return Goal(f"moved_{task.direction}", (task.object,))
        case "lift":
            return Goal("lifted", (task.object,))
        case "open":
            return Goal("open", (task.object,))
        case "close":
            return Goal("closed", (task.object,))
        case "idle":
            return Goal("unchanged")


def succeeded(task: Task, before: SceneState, after: SceneState) -> bool:
    """Say whether a task was done between two states.

    Beyond its goal, its target must be where it was, within `TARGET_SHIFT`.
    """
    kept = not task.target or _shift(before[task.target], after[task.target]) <= TARGET_SHIFT
    return kept and holds(goal_of(task), after, before)


def holds(goal: Goal, state: SceneState, before: SceneState | None = None) -> bool:
    """Say whether a goal is reached; moves and "unchanged" need the state `before`.

    Only what is lifted or held may be in the gripper. A thing is lifted from where it was in
    `before`, or else from what is below it.

    Raises SimulationError where the scene has no such thing.
    """
    things = [state[name] for name in goal.args]
    match goal.predicate:
        case "on":
            return state.held != goal.args[0] and is_on(things[0], things[1])
        case "in":
            return state.held != goal.args[0] and is_in(things[0], things[1])
        case "next_to":
            return (
                state.held != goal.args[0]
                and not _is_above(things[0], things[1])
                and gap(things[0], things[1]) <= NEXT_GAP
            )
        case "lifted":
            if state.held != goal.args[0]:
                return False
            if before is None:
                return clearance(goal.args[0], state) >= LIFT_HEIGHT
            return things[0].bottom - before[goal.args[0]].bottom >= LIFT_HEIGHT
        case "held":
            return state.held == goal.args[0]
        case "gripper_empty":
            return state.held is None
        case "open":
            return _opening(things[0]) > OPEN
        case "closed":
            return _opening(things[0]) < CLOSED
        case "unchanged":
            before = _needed(goal, before)
            return all(_shift(before[t.name], t) <= STILL_SHIFT for t in state.things)
    if goal.predicate in SIDES:
        along, across = offset(things[0], things[1], SIDES[goal.predicate])
        beside = gap(things[0], things[1]) > 0 and not _is_above(things[0], things[1])
        return bool(beside and along >= SIDE_DISTANCE and along >= abs(across))
    thing, start = things[0], _needed(goal, before)[goal.args[0]]
    along, across = offset(thing, start, MOVES[goal.predicate])
    level = abs(thing.bottom - start.bottom) <= _LEVEL and state.held != thing.name
    return bool(level and along >= PUSH_DISTANCE and along > abs(across))


def is_refuted(goal: Goal, state: SceneState, before: SceneState | None = None) -> bool:
    """Say whether a goal is so far from being reached that no one would call it true."""
    things = [state[name] for name in goal.args]
    match goal.predicate:
        case "on" | "in":
            return gap(things[0], things[1]) > _APART_GAP
        case "next_to":
            return gap(things[0], things[1]) > _FAR_GAP
        case "lifted" | "held":
            return state.held != goal.args[0] and not state.touch(goal.args[0], GRIPPER)
        case "gripper_empty":
            return state.held is not None
        case "open":
            return _opening(things[0]) < CLOSED
        case "closed":
            return _opening(things[0]) > 2 * CLOSED
        case "unchanged":
            before = _needed(goal, before)
            return any(_shift(before[t.name], t) > PUSH_DISTANCE for t in state.things)
    if goal.predicate in SIDES:
        return bool(offset(things[0], things[1], SIDES[goal.predicate])[0] < -_APART_GAP)
    start = _needed(goal, before)[goal.args[0]]
    return bool(offset(things[0], start, MOVES[goal.predicate])[0] < STILL_SHIFT)


def _is_above(first: ThingState, second: ThingState) -> bool:
    """Say whether the centre of either is over the other."""
    return is_over(first, second) or is_over(second, first)


def _shift(before: ThingState, after: ThingState) -> float:
    return float(np.linalg.norm(after.position - before.position))


def _opening(thing: ThingState) -> float:
    if thing.open is None:
        raise SimulationError(f"'{thing.name}' neither opens nor closes; only drawers do")
    return thing.open


def _needed(goal: Goal, before: SceneState | None) -> SceneState:
    if before is None:
        raise SimulationError(
            f"'{goal.predicate}' compares two states: give the state before as well"
        )
    return before
