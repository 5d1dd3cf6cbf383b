"""The tabletop as an environment, in Bridge's conventions.

import gymnasium, aid_robot.envs
env = gymnasium.make("aid_robot/Tabletop-v0", preset="easy")
obs, info = env.reset(seed=0, options={"instruction": "put the carrot on the plate"})
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from aid_robot.envs.recorded import Instruction
from aid_robot.envs.tabletop import config as configs
from aid_robot.envs.tabletop.config import TabletopConfig
from aid_robot.envs.tabletop.feasible import feasible, obstacle
from aid_robot.envs.tabletop.goals import succeeded
from aid_robot.envs.tabletop.language import describe, parse
from aid_robot.envs.tabletop.layout import names_for
from aid_robot.envs.tabletop.render import Kind, Renderer, UInt8Array, make_renderer
from aid_robot.envs.tabletop.state import SceneState
from aid_robot.envs.tabletop.tasks import Task
from aid_robot.envs.tabletop.world import MAX_MOVE, MAX_TURN, World, WorldState
from aid_robot.errors import ConfigError, SimulationError

Action: TypeAlias = NDArray[np.float32]
Obs: TypeAlias = dict[str, Any]

FPS = 5
CAMERAS = ("image_0", "image_1")
_OPTIONS = ("instruction", "task", "things", "state")
# Scenes that are drawn for a task that must be feasible.
_SCENES = 12


@dataclass(frozen=True, eq=False)
class EnvState:
    """A moment of an environment, to go back to; good for every environment of this class."""

    world: WorldState
    task: Task
    instruction: str
    # The scene when the task was given, which success is measured from.
    before: SceneState


class TabletopEnv(gymnasium.Env[Obs, Action]):
    """Do as told, on a table.

    Observations hold each camera's (H, W, 3) uint8 frame, "state" (7,) float32 (x, y, z [m], roll,
    pitch, yaw [rad] of the gripper, opening in [0, 1] with 1 = open) and "instruction". An action
    (7,) moves the gripper relative to where it was sent before: dx, dy, dz [m], droll, dpitch, dyaw
    [rad] in the base frame (x forward, y left, z up), and the opening; a step is a fifth of a
    second, larger moves are cut to the limits of `action_space`, and what the arm can't reach is
    not done. The reward is 1 while the instruction's task is done, else 0.

    `info` has "success", "task", "scene" (`SceneState.to_json`), "renderer" and "fps".

    Args:
        preset: "easy", "default" or "hard".
        config: A configuration, instead of a preset.
        size: (H, W) of the frames, or the side of square ones.
        cameras: Some of "image_0" (over the shoulder) and "image_1" (from the left).
        renderer: "auto", "egl", "osmesa", "glfw" or "rays".
        shadows: Whether things cast shadows; without, a frame takes half the time.
        end_on_success: Whether an episode is over when its task is done.
        render_mode: "rgb_array" or None.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012

    def __init__(
        self,
        *,
        preset: str = "default",
        config: TabletopConfig | None = None,
        size: int | tuple[int, int] = (256, 256),
        cameras: Sequence[str] = ("image_0",),
        renderer: Kind = "auto",
        shadows: bool = True,
        end_on_success: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode is {render_mode!r}; expected 'rgb_array' or None")
        unknown = [camera for camera in cameras if camera not in CAMERAS]
        if unknown or not cameras or len(set(cameras)) < len(cameras):
            raise ConfigError(
                f"cameras are {', '.join(cameras) or 'none'}; expected one or more of "
                f"{', '.join(CAMERAS)}, each once"
            )
        size = (size, size) if isinstance(size, int) else size
        if min(size) < 1:
            raise ConfigError(f"size is {size}; expected a height and width of 1 px or more")
        self.render_mode = render_mode
        self.config = configs.preset(preset) if config is None else config
        self.world = World()
        self._size, self._cameras, self._end_on_success = size, tuple(cameras), end_on_success
        self._renderer_kind, self._shadows = renderer, shadows
        self._renderer: Renderer | None = None
        frame = spaces.Box(0, 255, (*size, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {
                **dict.fromkeys(self._cameras, frame),
                "state": spaces.Box(-np.inf, np.inf, (7,), np.float32),
                "instruction": Instruction(),
            }
        )
        limits = np.array([MAX_MOVE] * 3 + [MAX_TURN] * 3 + [1.0], np.float32)
        self.action_space = spaces.Box(np.append(-limits[:6], np.float32(0)), limits)
        self._task: Task | None = None
        self._instruction = ""
        self._before: SceneState | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Lay out a new scene, and give a task that can be done in it.

        Options, all of which may be left out:
            instruction: What to do; the scene gets the things that it names.
            task: The same as a `Task`.
            things: Names of what the scene shall hold, such as "red cube"; more may be added, up to
                the preset's number.
            state: What `save_state` returned, instead of a new scene.

        Raises:
            InstructionError: The instruction isn't understood, or names what there is not.
            SimulationError: There is no such scene, or the task can't be done in it.
        """
        super().reset(seed=seed)
        given = dict(options or {})
        unknown = sorted(set(given) - set(_OPTIONS))
        if unknown:
            raise ConfigError(
                f"reset has no option {', '.join(unknown)}; it has {', '.join(_OPTIONS)}"
            )
        text, task = given.get("instruction"), given.get("task")
        if text is not None and task is not None:
            raise ConfigError("reset was given an instruction and a task; expected one of them")
        wish = text if text is not None else task
        if isinstance(given.get("things"), str):
            raise ConfigError(f"things is '{given['things']}'; expected a list of names")
        if "state" in given:
            if "things" in given:
                raise ConfigError("reset was given a state and things; expected one of them")
            self.restore_state(given["state"])
            if wish is not None:
                self.give(wish)
        else:
            self._new_scene(wish, tuple(given.get("things", ())))
        return self.observe(), self._info()

    def step(self, action: Action) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Move for a fifth of a second; SimulationError for what is no action."""
        self._given()
        self.world.step(_checked(action))
        info = self._info()
        # Standing still is done from the start, and is never over.
        over = self._end_on_success and info["success"] and info["task"]["skill"] != "idle"
        return self.observe(), float(info["success"]), over, False, info

    def give(self, task: Task | str) -> Task:
        """Give another task, or an instruction, to be done from here.

        Raises InstructionError where it isn't understood, SimulationError where it can't be done.
        """
        scene = self.scene_state()
        text = task if isinstance(task, str) else describe(task)
        asked = parse(task, scene) if isinstance(task, str) else task
        reason = obstacle(asked, scene)
        if reason is not None:
            raise SimulationError(
                f"'{text}' can't be done here: {reason}; the scene has {', '.join(scene.names)}"
            )
        self._task, self._instruction, self._before = asked, text, scene
        return asked

    def observe(self) -> Obs:
        """Look at the scene as it is."""
        renderer = self._drawing()
        obs: Obs = {name: renderer.render(self.world.data, name) for name in self._cameras}
        obs["state"] = self.world.gripper().astype(np.float32)
        obs["instruction"] = self._instruction
        return obs

    def render(self) -> UInt8Array | None:
        """Show the frame of the first camera (H, W, 3)."""
        if self.render_mode is None or self._task is None:
            return None
        return self._drawing().render(self.world.data, self._cameras[0])

    def scene_state(self) -> SceneState:
        """Say what is where."""
        return self.world.scene_state()

    def save_state(self) -> EnvState:
        """Copy all that decides what comes next: physics, looks and task."""
        task, before = self._given()
        return EnvState(self.world.save(), task, self._instruction, before)

    def restore_state(self, state: EnvState) -> None:
        """Go back to a saved moment: the same actions then lead to the very same states."""
        if not isinstance(state, EnvState):
            raise SimulationError(
                f"{type(state).__name__} is no saved state; expected what save_state returned"
            )
        self.world.restore(state.world)
        self._task, self._instruction, self._before = state.task, state.instruction, state.before
        self._repaint()

    @property
    def renderer_name(self) -> str:
        """Who draws the frames: "egl", "osmesa", "glfw" or "rays"."""
        return self._drawing().name

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _new_scene(self, wish: Task | str | None, things: tuple[str, ...]) -> None:
        """Draw scenes until the task can be done in one."""
        rng = self.np_random
        asked = wish
        if isinstance(wish, str):
            asked = parse(wish, things or names_for(wish, self.config, rng))
        if isinstance(asked, Task):
            needed = (name for name in (asked.object, asked.target) if name)
            things = tuple(dict.fromkeys((*things, *needed)))
        reason = None
        for _ in range(_SCENES):
            self.world.reset(self.config, rng, things)
            scene = self.scene_state()
            task = asked if isinstance(asked, Task) else _random_task(scene, rng)
            reason = obstacle(task, scene)
            if reason is None:
                break
        else:
            raise SimulationError(
                f"'{wish if isinstance(wish, str) else describe(task)}' can't be done in any of "
                f"{_SCENES} scenes: {reason}"
            )
        self._task, self._before = task, scene
        self._instruction = wish if isinstance(wish, str) else describe(task)
        self._repaint()

    def _given(self) -> tuple[Task, SceneState]:
        if self._task is None or self._before is None:
            raise gymnasium.error.ResetNeeded("there is no scene yet: call reset first")
        return self._task, self._before

    def _drawing(self) -> Renderer:
        # Made on first use, in the thread that looks.
        if self._renderer is None:
            self._renderer = make_renderer(
                self.world.model, *self._size, kind=self._renderer_kind, shadows=self._shadows
            )
        return self._renderer

    def _repaint(self) -> None:
        if self._renderer is not None:
            self._renderer.refresh()

    def _info(self) -> dict[str, Any]:
        task, before = self._given()
        scene = self.scene_state()
        return {
            "success": succeeded(task, before, scene),
            "task": task.to_json(),
            "scene": scene.to_json(),
            "renderer": self.renderer_name,
            "fps": FPS,
        }


def _random_task(scene: SceneState, rng: np.random.Generator) -> Task:
    """Draw a skill that can be shown, then a task of it."""
    tasks = [task for task in feasible(scene) if task.skill != "idle"] or [Task("idle")]
    skills = sorted({task.skill for task in tasks})
    skill = skills[rng.integers(len(skills))]
    choices = [task for task in tasks if task.skill == skill]
    return choices[rng.integers(len(choices))]


def _checked(action: Any) -> Action:
    try:
        values = np.asarray(action, np.float32)
    except (TypeError, ValueError) as error:
        raise SimulationError(f"an action is {action!r}; expected 7 numbers") from error
    if values.shape != (7,):
        raise SimulationError(
            f"an action has shape {values.shape}; expected (7,): dx, dy, dz [m], droll, dpitch, "
            "dyaw [rad], opening (1 = open)"
        )
    if not np.isfinite(values).all():
        raise SimulationError(f"an action is {values.tolist()}; expected 7 finite numbers")
    return values
