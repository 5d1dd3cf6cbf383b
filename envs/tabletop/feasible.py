"""Which tasks can be done in a scene, and which of them are worth asking for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aid_robot.envs.tabletop.goals import goal_of, holds
from aid_robot.envs.tabletop.names import VESSELS
from aid_robot.envs.tabletop.relations import (
    NEXT_GAP,
    OPEN,
    carried_by,
    footprint,
    gap,
    is_in,
    is_upright,
    load_of,
)
from aid_robot.envs.tabletop.state import SceneState, ThingState
from aid_robot.envs.tabletop.tasks import DIRECTION_VECTORS, DIRECTIONS, Direction, Task
from aid_robot.envs.tabletop.view import in_view

# Kinds with a flat top, and kinds with a flat bottom to stand on it.
BASES = frozenset(("cube", "can"))
STACKED = frozenset(("cube", "can", "cup"))
# A push needs free way ahead of the thing, and room behind it for the gripper.
_PUSH_AHEAD, _PUSH_BEHIND, _PUSH_SIDE = 0.13, 0.06, 0.01
# It ends this far on, in view; the gripper comes no nearer to its foot, and reaches no farther [m].
_PUSH, _NEAREST, _REACH = 0.075, 0.14, 0.46
# Things this near to each other are not worth moving next to each other.
_APART = 2 * NEXT_GAP


def obstacle(task: Task, scene: SceneState) -> str | None:
    """Return why a task can't be done in a scene, in words; None where it can.

    Raises SimulationError where the scene has no such thing.
    """
    if task.skill == "idle":
        return None
    thing = scene[task.object]
    if task.skill in ("open", "close"):
        if thing.open is None:
            return f"the {thing.name} neither opens nor closes"
    elif not thing.graspable:
        return f"the {thing.name} can't be grasped"
    elif any(_is_shut(scene[name]) and is_in(thing, scene[name]) for name in scene.names):
        return f"the {thing.name} is in a drawer that is not open"
    if task.target:
        target = scene[task.target]
        if task.skill == "put" and not target.container:
            return f"nothing can be put on the {target.name}"
        if task.skill == "put" and _is_shut(target):
            return f"the {target.name} is not open"
        if task.skill == "put" and not _fits(thing, target):
            return f"the {thing.name} is too large for the {target.name}"
        if task.skill == "stack" and target.kind not in BASES:
            return f"the {target.name} has no flat top to stack on"
        if carried_by(target.name, scene) == thing.name:
            return f"the {target.name} is on the {thing.name}"
    if not task.direction and holds(goal_of(task), scene):
        return f"the {thing.name} is so already"
    return None


def feasible(scene: SceneState) -> tuple[Task, ...]:
    """Return the tasks that a person would think of asking for, in a fixed order.

    Stricter than `obstacle`: what is moved lies free, targets are empty, and there is room.
    """
    return tuple(task for task in _candidates(scene) if obstacle(task, scene) is None)


def _candidates(scene: SceneState) -> Iterator[Task]:
    free = [thing for thing in scene.things if _is_free(thing, scene)]
    empty = [
        thing
        for thing in scene.things
        if thing.name != scene.held and not load_of(thing.name, scene)
    ]
    for thing in free:
        yield Task("lift", thing.name)
        for direction in DIRECTIONS:
            if _has_way(thing, direction, scene):
                yield Task("push", thing.name, direction=direction)
        for target in empty:
            if target is thing or carried_by(thing.name, scene) == target.name:
                continue
            if target.container and is_upright(target):
                yield Task("put", thing.name, target.name)
            if thing.kind in STACKED and target.kind in BASES and _stand(thing, target):
                yield Task("stack", thing.name, target.name)
            if target.open is None and gap(thing, target) > _APART:
                yield Task("move_next_to", thing.name, target.name)
    for thing in scene.things:
        if thing.open is not None:
            yield Task("open", thing.name)
            yield Task("close", thing.name)
    yield Task("idle")


def _is_shut(thing: ThingState) -> bool:
    return thing.open is not None and thing.open < OPEN


def _is_free(thing: ThingState, scene: SceneState) -> bool:
    """Say whether a thing can be grasped, has nothing on it, and lies in no vessel."""
    return (
        thing.graspable
        and thing.name != scene.held
        and not load_of(thing.name, scene)
        and not any(
            is_in(thing, other)
            for other in scene.things
            if other.kind in VESSELS and other is not thing
        )
    )


def _stand(*things: ThingState) -> bool:
    return all(is_upright(thing) for thing in things)


def _fits(thing: ThingState, target: ThingState) -> bool:
    """Say whether a thing sinks into a vessel; on others it may hang over."""
    if target.kind not in VESSELS:
        return True
    # A carrot may stand or lean in a pot, so its length doesn't count, only its thickness.
    return bool(np.sort(thing.half_size)[1] < 0.8 * target.half_size[:2].min())


def _has_way(thing: ThingState, direction: Direction, scene: SceneState) -> bool:
    """Say whether a thing lies on the table with nothing before it and room to push behind it."""
    if carried_by(thing.name, scene) is not None:
        return False
    axis = np.array(DIRECTION_VECTORS[direction])
    across = np.array([-axis[1], axis[0]])
    outline = footprint(thing) - thing.position[:2]
    front, width = (outline @ axis).max(), np.abs(outline @ across).max() + _PUSH_SIDE
    end = thing.position[:2] + _PUSH * axis
    behind = thing.position[:2] + ((outline @ axis).min() - _PUSH_BEHIND / 2) * axis
    if not in_view(end, float(thing.half_size[:2].min())):
        return False
    if not all(place[0] > _NEAREST and np.linalg.norm(place) < _REACH for place in (behind, end)):
        return False
    for other in scene.things:
        if other is thing:
            continue
        corners = footprint(other) - thing.position[:2]
        along, aside = corners @ axis, corners @ across
        beside = aside.min() < width and aside.max() > -width
        if beside and along.max() > -front - _PUSH_BEHIND and along.min() < front + _PUSH_AHEAD:
            return False
    return True
