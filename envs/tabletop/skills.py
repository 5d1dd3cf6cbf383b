"""Scripted experts: each skill is a generator of actions, by contact alone, from any state.

for action in make_actions(world, Task("put", "carrot", "plate")):
    world.step(action)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aid_robot.envs.tabletop.arm import angles_of, rotation_of
from aid_robot.envs.tabletop.feasible import feasible, obstacle
from aid_robot.envs.tabletop.goals import succeeded
from aid_robot.envs.tabletop.grasps import (
    LONG,
    ROOM,
    aligned_yaw,
    beside,
    free_place,
    grasp_pose,
    nearest,
)
from aid_robot.envs.tabletop.objects import DRAWER
from aid_robot.envs.tabletop.relations import footprint
from aid_robot.envs.tabletop.scene import FINGER_TRAVEL
from aid_robot.envs.tabletop.state import GRIPPER, SceneState, ThingState, Vector
from aid_robot.envs.tabletop.tasks import DIRECTION_VECTORS, FAILURES_OF, Failure, Task
from aid_robot.envs.tabletop.world import HIGH, LOW, MAX_MOVE, World
from aid_robot.errors import SimulationError

_STILL, _UP, _FORWARD = np.zeros(3), np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])
# Skills that bring their object to a target, and those that begin with it in hand.
_PLACING = ("put", "stack", "move_next_to")
_CARRYING = (*_PLACING, "lift")
Action = NDArray[np.float32]
Actions = Iterator[Action]

if TYPE_CHECKING:
    from aid_robot.envs.tabletop.env import TabletopEnv

# Of the largest move and turn that a step allows.
_MOVE, _TURN = 0.95 * MAX_MOVE, 0.38
# While something is pushed or pulled [m a step].
_SLOW = 0.036
# How far something is pushed, in how many steps at most, and what they give way to its turning [m].
_PUSH, _PUSH_STEPS, _ASIDE = 0.065, 7, 0.012
_MAX_STEPS = 20
# Above a thing before it is grasped, and above the table while it is carried [m].
_ABOVE, _CARRY = 0.045, 0.075
# Closed fingers, from their middle [m].
_FINGER = 0.0095


def make_actions(
    place: World | TabletopEnv,
    task: Task,
    failure: Failure | None = None,
    rng: np.random.Generator | None = None,
) -> Actions:
    """Give the actions (7,) that do a task, each to be executed before the next is asked for.

    Args:
        place: Where it is done; only looked at.
        task: Feasible from here, or SimulationError.
        failure: How it shall go wrong; SimulationError where this task can't go wrong so.
        rng: Of what is drawn for a failure.
    """
    world = place if isinstance(place, World) else place.world
    scene = world.scene_state()
    reason = obstacle(task, scene)
    if reason is not None:
        raise SimulationError(f"{task} can't be done here: {reason}")
    rng = rng or np.random.default_rng(0)
    if failure is not None:
        if failure not in FAILURES_OF[task.skill]:
            known = ", ".join(FAILURES_OF[task.skill]) or "none"
            raise SimulationError(
                f"the skill '{task.skill}' has no failure '{failure}'; it has {known}"
            )
        if failure in ("wrong_object", "wrong_target"):
            task, failure = _other(task, failure, scene, rng), None
    return _Expert(world, failure, rng).do(task)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What was done for a task, and what came of it."""

    task: Task
    # (T, 7); the last rests.
    actions: Action
    before: SceneState
    after: SceneState

    @property
    def success(self) -> bool:
        """Say whether the task was done."""
        return succeeded(self.task, self.before, self.after)


def run_skill(
    place: World | TabletopEnv,
    task: Task,
    failure: Failure | None = None,
    rng: np.random.Generator | None = None,
) -> Trajectory:
    """Do a task from here to its end, and rest for a step; see `make_actions`.

    Drawn are only the steps of an environment.
    """
    before = place.scene_state()
    actions = []
    for action in make_actions(place, task, failure, rng):
        actions.append(action)
        place.step(action)
    rest = np.zeros(7, np.float32)
    rest[6] = actions[-1][6]
    place.step(rest)
    return Trajectory(task, np.stack([*actions, rest]), before, place.scene_state())


def _other(task: Task, failure: Failure, scene: SceneState, rng: np.random.Generator) -> Task:
    """Draw a feasible task that differs in its object, or in where that goes."""
    wrong_object = failure == "wrong_object"
    choices = [
        other
        for other in feasible(scene)
        if (other.skill == task.skill or (other.skill in _PLACING and task.skill in _PLACING))
        and (other.object != task.object) == wrong_object
        and ((other.target, other.direction) == (task.target, task.direction)) == wrong_object
    ]
    # Of the same skill, where there are such.
    choices = [other for other in choices if other.skill == task.skill] or choices
    if not choices:
        raise SimulationError(f"{task} can't fail as '{failure}': the scene has no other to take")
    return choices[rng.integers(len(choices))]


class _Expert:
    """Motions that skills are made of; `opening` is what the gripper is told throughout."""

    def __init__(self, world: World, failure: Failure | None, rng: np.random.Generator) -> None:
        self.world, self.failure, self.rng = world, failure, rng
        self.opening = world.target[2]

    def do(self, task: Task) -> Actions:
        scene = self.world.scene_state()
        keeps = scene.held == task.object and task.skill in _CARRYING
        if scene.held is not None and task.skill != "idle" and not keeps:
            yield from self._let_go()
        match task.skill:
            case "put" | "stack" | "move_next_to":
                yield from self._grasp(task.object)
                yield from self._carry(task)
            case "lift":
                yield from self._grasp(task.object)
                yield from self._rise(0.09)
                if self.failure == "dropped":
                    yield from self._grip(1.0, 2)
            case "push":
                yield from self._push(task)
            case "open":
                yield from self._pull(task.object)
            case "close":
                yield from self._shut(task.object)
            case "idle":
                for _ in range(10):
                    yield self._action()

    # Motions

    def _action(self, move: Vector = _STILL, turn: Vector = _STILL) -> Action:
        return np.array([*move, *turn, self.opening], np.float32)

    def _move(self, position: Vector, yaw: float | None = None, speed: float = _MOVE) -> Actions:
        """Go straight to a place of the fingertips, pointing down."""
        position = np.clip(position, LOW, HIGH)
        yaw = self._yaw() if yaw is None else yaw
        for _ in range(_MAX_STEPS):
            at, rotation, _ = self.world.target
            way = position - at
            turn = angles_of(rotation_of(np.array([0.0, 0.0, yaw])) @ rotation.T)
            distance, angle = float(np.linalg.norm(way)), float(np.abs(turn).max())
            if distance < 1e-3 and angle < 1e-2:
                return
            # Both arrive together, in as many equal steps as the slower one needs.
            steps = max(1, math.ceil(distance / speed - 1e-6), math.ceil(angle / _TURN - 1e-6))
            yield self._action(way / steps, turn / steps)
            if np.array_equal(self.world.target[0], at) and distance > 1e-3:
                return  # out of reach: as far as it goes

    def _approach(self, position: Vector, yaw: float) -> Actions:
        """Go to a place above a thing, first up where the way there might sweep things away."""
        rise = position[2] - self.world.target[0][2]
        if rise > 0.01:
            yield from self._rise(rise)
        yield from self._move(position, yaw)

    def _grip(self, opening: float, steps: int) -> Actions:
        self.opening = opening
        for _ in range(steps):
            yield self._action()

    def _rise(self, height: float) -> Actions:
        yield from self._move(self.world.target[0] + height * _UP)

    def _let_go(self) -> Actions:
        """Put down what is held, where there is nothing else."""
        scene = self.world.scene_state()
        assert scene.held is not None
        thing = scene[scene.held]
        at = self.world.target[0]
        place = free_place(thing, scene)
        high = np.array([*place, max(at[2], thing.half_size.max() + _CARRY)])
        yield from self._move(high)
        yield from self._release_at(thing.name, np.array([*place, scene.table]))

    # Grasping

    def _grasp(self, name: str) -> Actions:
        missed = self.failure == "missed_grasp"
        for attempt in range(2):
            scene = self.world.scene_state()
            if scene.held == name:
                return
            thing = scene[name]
            point, yaw, width = grasp_pose(thing, scene)
            if missed:
                point = self._beside_or_above(thing, point, yaw)
            room = ROOM if attempt == 0 else 0.02
            above = point + (_ABOVE + max(0.0, thing.top - point[2])) * _UP
            self.opening = min(1.0, (width / 2 + room) / FINGER_TRAVEL)
            yield from self._approach(above, yaw)
            yield from self._move(point, yaw)
            yield from self._grip(0.0, 2)
            if missed:
                return
        # A second miss is left to be one.

    def _beside_or_above(self, thing: ThingState, point: Vector, yaw: float) -> Vector:
        """Where closing fingers miss a thing: too high, or before or behind it."""
        if self.rng.random() < 0.5:
            return np.array([*point[:2], thing.top + 0.012])
        ahead = np.array([math.cos(yaw), math.sin(yaw), 0.0])
        reach = np.abs((footprint(thing) - thing.position[:2]) @ ahead[:2]).max() + 0.018
        return np.asarray(point + reach * self.rng.choice((-1, 1)) * ahead)

    def _carry(self, task: Task) -> Actions:
        scene = self.world.scene_state()
        thing = scene[task.object]
        place, yaw = self._destination(task, scene)
        held = scene.held == task.object
        lowest = thing.bottom if held else scene.table
        clear = max(_CARRY, (scene[task.target].top + 0.025) if task.target else 0.0)
        at = self.world.target[0]
        rise = clear - (lowest - scene.table)
        if rise > 0:
            yield from self._rise(rise)
        at = self.world.target[0]
        offset = self._offset(task.object) if held else np.zeros(3)
        over = np.array([place[0] - offset[0], place[1] - offset[1], at[2]])
        if self.failure == "dropped":
            # On the way, but well off the target.
            places = at + np.linspace(0, self.rng.uniform(0.3, 0.6), 10)[:, None] * (over - at)
            apart = places - [*scene[task.target].position[:2], at[2]]
            near = np.linalg.norm(apart, axis=1) < 0.13
            place = places[max(0, int((~near).cumprod().sum()) - 1)]
            yield from self._move(place + near[0] * 0.06 * apart[0] / np.linalg.norm(apart[0]))
            yield from self._grip(1.0, 2)
        yield from self._move(over, yaw)
        if self.failure in ("dropped", "missed_grasp") or not held:
            yield from self._grip(0.6, 1)
            return
        yield from self._release_at(task.object, place)

    def _offset(self, name: str) -> Vector:
        """From the fingertips to the thing's centre across, and to its lowest point."""
        scene = self.world.scene_state()
        thing = scene[name]
        return np.array(
            [*(thing.position[:2] - scene.gripper[:2]), thing.bottom - scene.gripper[2]]
        )

    def _release_at(self, name: str, place: Vector) -> Actions:
        """Lower a held thing until its lowest point is at `place`, open, and rise."""
        offset = self._offset(name)
        yield from self._move(place - offset + 0.004 * _UP)
        yield from self._grip(min(1.0, self.world.gripper()[6] + ROOM / FINGER_TRAVEL), 1)
        yield from self._rise(0.07)

    def _destination(self, task: Task, scene: SceneState) -> tuple[Vector, float | None]:
        """Where the thing's lowest point shall be, and the gripper's yaw."""
        target, thing = scene[task.target], scene[task.object]
        if task.skill == "stack":
            return np.array([*target.position[:2], target.top]), aligned_yaw(target, self._yaw())
        if task.skill == "put":
            if target.kind == "drawer":
                opened = DRAWER.travel * float(target.open or 0)
                x = target.position[0] - (DRAWER.half_size[0] - opened / 2)
                # It is wider than deep: fingers open along its width, and what is long lies so.
                is_long = thing.kind in LONG
                yaw = math.copysign(math.pi / 2, self._yaw()) if is_long else 0.0
                height = target.top + 0.004 if is_long else target.bottom + 0.03
                return np.array([x, target.position[1], height]), yaw
            deep = target.kind in ("bowl", "pot", "cup")
            height = target.top + 0.004 if deep else target.position[2] + 0.004
            return np.array([*target.position[:2], height]), None
        return beside(thing, target, scene, self._yaw())

    def _yaw(self) -> float:
        return float(angles_of(self.world.target[1])[2])

    # Pushing and pulling

    def _push(self, task: Task) -> Actions:
        """Push with closed fingers, or with both apart what would turn away from one of them."""
        scene = self.world.scene_state()
        thing = scene[task.object]
        axis = np.array([*DIRECTION_VECTORS[task.direction], 0.0])
        across = np.array([-axis[1], axis[0], 0.0])
        outline = footprint(thing) - thing.position[:2]
        back, width = -(outline @ axis[:2]).min(), np.abs(outline @ across[:2]).max()
        middle = thing.position.copy()
        if self.failure == "missed_grasp":
            middle += across * (width + 0.04) * self.rng.choice((-1, 1))
        middle[2] = scene.table + min(0.020, 0.7 * thing.half_size.min() + 0.004)
        start = middle - axis * (back + 0.030)
        # Fingers stand side by side across the way.
        yaw = nearest(math.atan2(axis[1], axis[0]))
        yaw = min((yaw, nearest(yaw + math.pi)), key=abs)
        # Round things would wedge themselves between open fingers.
        self.opening = min(0.5 * width, 0.018) / FINGER_TRAVEL if thing.kind in LONG else 0.0
        yield from self._approach(start + (thing.top + 0.03) * _UP, yaw)
        yield from self._move(start)
        for _ in range(_PUSH_STEPS):
            now = self.world.scene_state()
            left = _PUSH - float((now[task.object].position - thing.position) @ axis)
            if left < 0.004 or (self.world.target[0] - middle) @ axis > _PUSH:
                break
            ahead = min(_SLOW, left) if now.touch(task.object, GRIPPER) else _SLOW
            # Keep behind its middle, or else it turns away.
            aside = (now[task.object].position - self.world.target[0]) @ across
            aside = 0.0 if self.failure else float(np.clip(aside, -_ASIDE, _ASIDE))
            yield self._action(ahead * axis + aside * across)
        yield from self._move(self.world.target[0] - 0.02 * axis)
        yield from self._rise(0.06)

    def _handle(self, drawer: ThingState) -> Vector:
        """The middle of the handle's bar."""
        front = DRAWER.half_size[0] + DRAWER.handle_gap + DRAWER.bar
        return np.asarray(drawer.position - front * _FORWARD + DRAWER.handle_height * _UP)

    def _pull(self, name: str) -> Actions:
        bar = self._handle(self.world.scene_state()[name])
        behind = bar + (DRAWER.bar + DRAWER.handle_gap / 2) * _FORWARD - 0.008 * _UP
        if self.failure == "missed_grasp":
            behind = behind - 0.045 * _FORWARD
        self.opening = 0.0
        yield from self._approach(behind + 0.05 * _UP, 0.0)
        yield from self._move(behind)
        opened = float(self.world.scene_state()[name].open or 0) * DRAWER.travel
        left = DRAWER.travel - opened
        slack = DRAWER.handle_gap / 2 - _FINGER
        yield from self._move(behind - (left + slack + 0.006) * _FORWARD, speed=_SLOW)
        yield from self._move(self.world.target[0] + slack * _FORWARD)
        yield from self._rise(0.07)

    def _shut(self, name: str) -> Actions:
        drawer = self.world.scene_state()[name]
        bar = self._handle(drawer)
        left = DRAWER.travel * float(drawer.open or 0)
        before = bar - (DRAWER.bar + _FINGER + 0.018) * _FORWARD - 0.004 * _UP
        if self.failure == "missed_grasp":
            before = before + 0.035 * _UP
            left *= 0.7
        self.opening = 0.0
        yield from self._approach(before + 0.05 * _UP, 0.0)
        yield from self._move(before)
        yield from self._move(before + (left + 0.024) * _FORWARD, speed=_SLOW)
        yield self._action()
        yield from self._move(self.world.target[0] - 0.02 * _FORWARD + 0.06 * _UP)
