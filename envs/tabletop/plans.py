"""Plans for the tabletop: what its scene allows, and the scripted skills that carry it out.

env = ForesightPlanner(gymnasium.make("aid_robot/Tabletop-v0"), model, scorer)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from aid_robot.envs.executors import Executor
from aid_robot.envs.tabletop.env import TabletopEnv
from aid_robot.envs.tabletop.feasible import feasible, obstacle
from aid_robot.envs.tabletop.language import describe, parse
from aid_robot.envs.tabletop.objects import DRAWER
from aid_robot.envs.tabletop.skills import Actions, make_actions
from aid_robot.envs.tabletop.state import SceneState, ThingState, Vector
from aid_robot.envs.tabletop.tasks import DIRECTION_VECTORS, Task
from aid_robot.errors import ConfigError, InstructionError, SimulationError
from aid_robot.planning.plans import Plan
from aid_robot.planning.propose import Situation, shortlist

# How far a thing is pushed, how high it is lifted, and what is left between neighbours [m].
_PUSHED, _LIFTED, _BESIDE = 0.065, 0.09, 0.02


class SkillExecutor(Executor):
    """The scripted skills, at the end of which the arm rests for a step."""

    def __init__(self) -> None:
        self._actions: Actions = iter(())
        self._last: Any = None
        self._has_rested = True

    def start(self, env: gymnasium.Env[Any, Any] | None, instruction: str) -> None:
        """Begin with an instruction, understood as the environment does."""
        table = _tabletop(env)
        self._actions = make_actions(table, parse(instruction, table.scene_state()))
        self._last, self._has_rested = None, False

    def act(self, obs: Any) -> Any | None:
        """Return the skill's next action."""
        action = next(self._actions, None)
        if action is not None:
            self._last = action
            return action
        if self._has_rested or self._last is None:
            return None
        self._has_rested = True
        return self._last * np.array([0, 0, 0, 0, 0, 0, 1], np.float32)

    def obstacle(self, env: gymnasium.Env[Any, Any] | None, instruction: str) -> str | None:
        """Say why an instruction can't be done in the scene as it is."""
        scene = _tabletop(env).scene_state()
        try:
            return obstacle(parse(instruction, scene), scene)
        except (InstructionError, SimulationError) as error:
            return str(error)


class SceneSkills:
    """Propose what can be done in the scene, in the skills' canonical words.

    Args:
        depth: Instructions of a plan, at most; those that a step before makes possible are among
            them, as to put something into a drawer that is opened first.
        idle: Whether doing nothing is a candidate.
    """

    def __init__(self, *, depth: int = 1, idle: bool = False) -> None:
        if depth < 1:
            raise ConfigError(f"depth={depth} must be at least 1")
        self.depth, self.idle = depth, idle

    def __call__(self, situation: Situation) -> tuple[Plan, ...]:
        """Return as many as are wanted, those that share most words with the goal's text."""
        scene = _tabletop(situation.env).scene_state()
        plans = [Plan(tuple(map(describe, tasks))) for tasks in self._sequences(scene, self.depth)]
        return shortlist(plans, situation)

    def _sequences(self, scene: SceneState, depth: int) -> Iterator[tuple[Task, ...]]:
        for task in feasible(scene):
            if task.skill == "idle":
                if self.idle and depth == self.depth:
                    yield (task,)
                continue
            yield (task,)
            if depth > 1:
                for following in self._sequences(expected(task, scene), depth - 1):
                    if following[0].object != task.object:
                        yield (task, *following)


def expected(task: Task, scene: SceneState) -> SceneState:
    """Return roughly what a scene is like once a task is done: enough to say what can follow."""
    if task.skill == "idle":
        return scene
    thing = scene[task.object]
    held: str | None = None
    match task.skill:
        case "open" | "close":
            amount = 1.0 if task.skill == "open" else 0.0
            slid = (amount - float(thing.open or 0)) * DRAWER.travel
            changed = _moved(thing, np.array([-slid, 0.0, 0.0]), open=amount)
        case "push":
            way = np.array([*DIRECTION_VECTORS[task.direction], 0.0])
            changed = _moved(thing, _PUSHED * way)
        case "lift":
            changed, held = _moved(thing, np.array([0.0, 0.0, _LIFTED])), thing.name
        case "move_next_to":
            target = scene[task.target]
            # On that side of the target from which it comes.
            side = 1.0 if thing.position[1] >= target.position[1] else -1.0
            apart = thing.extent[1] + target.extent[1] + _BESIDE
            place = target.position + np.array([0.0, side * apart, 0.0])
            place[2] = scene.table + thing.extent[2]
            changed = _moved(thing, place - thing.position)
        case _:  # put, stack
            target = scene[task.target]
            inside = task.skill == "put" and target.container
            bottom = target.position[2] if inside else target.top
            place = np.array([*target.position[:2], bottom + thing.extent[2]])
            changed = _moved(thing, place - thing.position)
    things = tuple(changed if other is thing else other for other in scene.things)
    return replace(scene, things=things, held=held, contacts=frozenset())


def _moved(thing: ThingState, way: Vector, **changes: Any) -> ThingState:
    return replace(thing, position=thing.position + way, **changes)


def _tabletop(env: gymnasium.Env[Any, Any] | None) -> TabletopEnv:
    inner = None if env is None else env.unwrapped
    if not isinstance(inner, TabletopEnv):
        raise ConfigError(
            f"the tabletop's skills were given {env!r}; expected an aid_robot/Tabletop-v0 in this "
            "process: give an executor and proposer of your own"
        )
    return inner
