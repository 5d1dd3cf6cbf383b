"""Episodes of scripted skills, each a pure function of the seed and its number.

What `Episode.info` of one holds:
    task: The skill with its object, target and direction.
    goal: What is true when it is done, as text and as predicate with arguments.
    failure: None, or how it was made to go wrong.
    captions: Of the first frame ("start") and of the last ("end"): text, goal, and whether true.
    states: The scene at "start" and "end", `SceneState.to_json`.
    places: Of the main camera's first frame: where the task's object and target are, from 0, 0 at
        the top left to 1, 1.
    renderer: What drew the frames.
    alternatives_group: Common to all episodes from the very same start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import mujoco
import numpy as np

from aid_robot import __version__
from aid_robot.data import EncodedFrames, Episode
from aid_robot.data.episode import FloatArray, UInt8Array
from aid_robot.data.store.codecs import JpegCodec
from aid_robot.envs.tabletop.captions import Caption, captions, describe_goal
from aid_robot.envs.tabletop.env import CAMERAS, FPS, TabletopEnv
from aid_robot.envs.tabletop.feasible import feasible
from aid_robot.envs.tabletop.goals import goal_of, succeeded
from aid_robot.envs.tabletop.language import paraphrases
from aid_robot.envs.tabletop.render import Kind
from aid_robot.envs.tabletop.skills import make_actions
from aid_robot.envs.tabletop.state import SceneState
from aid_robot.envs.tabletop.tasks import FAILURES_OF, SKILLS, Failure, Skill, Task
from aid_robot.envs.tabletop.view import see
from aid_robot.errors import ConfigError, SimulationError

# Frames at rest after a skill has ended.
STILL_FRAMES = 2
MAIN = CAMERAS[0]
# Scenes that are drawn for one start, and those of them that must show all its skills.
_MAX_SCENES, _PICKY_SCENES = 60, 8
# Tasks that are tried for one alternative in one scene, and for each in all scenes.
_MAX_TASKS, _MAX_TRIES = 4, 20
_NUM_WORDINGS, _NUM_CAPTIONS = 6, 8


@dataclass(frozen=True)
class DataConfig:
    """What decides every episode, together with its number."""

    seed: int = 0
    # Height and width of the frames.
    size: int = 128
    # Name of the simulator's preset.
    preset: str = "default"
    cameras: tuple[str, ...] = ("image_0",)
    # "auto", or a renderer's name.
    renderer: Kind = "auto"
    shadows: bool = True
    skills: tuple[Skill, ...] = SKILLS
    # Episodes that start from the very same state.
    alternatives: int = 1
    # Share of deliberate failures.
    failures: float = 0.0
    # Shorter episodes are held still at their end; longer ones are tried again elsewhere.
    min_frames: int = 8
    max_frames: int = 64

    def __post_init__(self) -> None:
        unknown = [skill for skill in self.skills if skill not in SKILLS]
        if unknown or not self.skills or len(set(self.skills)) < len(self.skills):
            raise ConfigError(
                f"skills are {', '.join(self.skills) or 'none'}; expected different ones of "
                f"{', '.join(SKILLS)}"
            )
        if not 0 <= self.failures <= 1:
            raise ConfigError(f"failures is {self.failures}; expected a share from 0 to 1")
        if self.failures and not any(FAILURES_OF[skill] for skill in self.skills):
            raise ConfigError(
                f"{', '.join(self.skills)} can't fail; leave failures out or add another skill"
            )
        for name, low, high in (
            ("alternatives", 1, 16), ("size", 16, 1024), ("min_frames", 2, 256), ("seed", 0, 2**31),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {low} to {high}")
        if self.max_frames < max(self.min_frames, 16):
            raise ConfigError(
                f"at most {self.max_frames} frames are asked for; expected 16 or more, and no "
                f"fewer than the {self.min_frames} at least: most skills take 10 to 24"
            )
        if not self.cameras:
            raise ConfigError("no camera is asked for; expected one at least, as 'image_0'")

    def id_of(self, number: int) -> str:
        """Name episode `number`: by the seed, its start, and its place among the alternatives."""
        start, place = divmod(number, self.alternatives)
        return f"{self.scene_of(start)}-{place}"

    def scene_of(self, start: int) -> str:
        """Name what the alternatives of a start have in common."""
        return f"tabletop-{self.seed}-{start}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class Facts:
    """What episodes are made with."""

    # Name of the renderer that was chosen.
    renderer: str
    # The environment's configuration, as JSON.
    environment: Mapping[str, Any]
    # Package -> version.
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Made:
    """The episodes of one start."""

    episodes: tuple[Episode, ...]
    # Every try: its skill, and whether it went as it should.
    tries: tuple[Try, ...]


@dataclass(frozen=True)
class Try:
    """An attempt at a task."""

    skill: Skill
    # Whether it was meant to fail.
    spoiled: bool
    # Whether it went as it was meant to.
    done: bool


def wanted_skills(config: DataConfig, start: int) -> tuple[Skill, ...]:
    """Say which skills the alternatives of a start show.

    The first takes its turn, so that all skills are equally frequent; the second is the same skill
    with another thing, place or direction; the others are the next in turn.
    """
    count = len(config.skills)
    block, place = divmod(start, count)
    turn = np.random.default_rng((config.seed, block)).permutation(count)
    steps = (0, 0, *range(1, config.alternatives))[: config.alternatives]
    return tuple(config.skills[turn[(place + step) % count]] for step in steps)


class Generator:
    """Make episodes with an environment of its own."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self._env = TabletopEnv(
            preset=config.preset,
            size=(config.size, config.size),
            cameras=config.cameras,
            renderer=config.renderer,
            shadows=config.shadows,
        )
        self.facts = Facts(
            renderer=self._env.renderer_name,
            environment=self._env.config.to_json(),
            versions={
                "aid_robot": __version__,
                "mujoco": mujoco.__version__,
                "numpy": np.__version__,
            },
        )

    def make(self, start: int) -> Made:
        """Make all alternatives of a start.

        Raises SimulationError where no scene was found in which they can be shown.
        """
        wanted = wanted_skills(self.config, start)
        # A drawer is rare, and only it can be opened or closed.
        things = ("drawer",) if {"open", "close"} & set(wanted) else ()
        tries: list[Try] = []
        for scene in range(_MAX_SCENES):
            rng = np.random.default_rng((self.config.seed, start, scene))
            self._env.reset(seed=int(rng.integers(2**31)), options={"things": things})
            tasks = feasible(self._env.scene_state())
            offered = [task for task in tasks if task.skill in self.config.skills]
            # All that is wanted, or after a while the first of it.
            needed = set(wanted if scene < _PICKY_SCENES else wanted[:1])
            if needed <= {task.skill for task in offered}:
                episodes = self._alternatives(start, wanted, offered, rng, tries)
                if len(episodes) == len(wanted):
                    return Made(tuple(episodes), tuple(tries))
            if len(tries) > _MAX_TRIES * len(wanted):
                break
        raise SimulationError(
            f"after {scene + 1} scenes of the preset '{self.config.preset}' none shows "
            f"{', '.join(dict.fromkeys(wanted))} from one start in at most "
            f"{self.config.max_frames} frames: allow more frames, fewer alternatives or other "
            "skills"
        )

    def _alternatives(
        self,
        start: int,
        wanted: Sequence[Skill],
        offered: Sequence[Task],
        rng: np.random.Generator,
        tries: list[Try],
    ) -> list[Episode]:
        """Make the alternatives from the scene as it is; fewer where one can't be shown."""
        saved = self._env.save_state()
        episodes: list[Episode] = []
        left = list(offered)
        for place, skill in enumerate(wanted):
            skills = list(dict.fromkeys(task.skill for task in left))
            if skill not in skills:
                if not (place and skills):
                    break
                skill = skills[rng.integers(len(skills))]
            tasks = [task for task in left if task.skill == skill]
            fails = rng.random() < self.config.failures
            for index in rng.permutation(len(tasks))[:_MAX_TASKS]:
                task = tasks[index]
                modes = _failures(task, offered) if fails else ()
                failure = modes[rng.integers(len(modes))] if modes else None
                self._env.restore_state(saved)
                played = self._play(task, failure, rng)
                tries.append(Try(task.skill, failure is not None, played is not None))
                if played is not None:
                    episodes.append(self._episode(start, place, task, failure, played, rng))
                    left.remove(task)
                    break
            else:
                break
        return episodes

    def _play(
        self, task: Task, failure: Failure | None, rng: np.random.Generator
    ) -> _Played | None:
        """Do a task; None where it went otherwise than wanted, or takes too long."""
        env, config = self._env, self.config
        before = env.scene_state()
        seen = [env.observe()]
        actions: list[FloatArray] = []

        def act(action: FloatArray) -> None:
            env.world.step(action)
            actions.append(action)
            seen.append(env.observe())

        for action in make_actions(env.world, task, failure, rng):
            if len(seen) + STILL_FRAMES >= config.max_frames:
                return None
            act(action)
        rest = np.zeros(7, np.float32)
        rest[6] = actions[-1][6]
        for _ in range(max(STILL_FRAMES, config.min_frames - len(seen))):
            act(rest)
        after = env.scene_state()
        if succeeded(task, before, after) == (failure is not None):
            return None
        # The last frame leads nowhere: its action is to rest.
        return _Played(seen, np.stack([*actions, rest]), before, after)

    def _episode(
        self,
        start: int,
        place: int,
        task: Task,
        failure: Failure | None,
        played: _Played,
        rng: np.random.Generator,
    ) -> Episode:
        """Describe what was played."""
        config = self.config
        name = config.id_of(start * config.alternatives + place)
        wordings = paraphrases(task, played.before)
        others = rng.permutation(len(wordings) - 1)[: _NUM_WORDINGS - 1] + 1
        goal = goal_of(task)

        def said(drawn: Sequence[Caption]) -> list[dict[str, Any]]:
            return [caption.to_json() for caption in drawn]

        info = {
            "task": task.to_json(),
            "goal": {"text": describe_goal(goal), "goal": goal.to_json()},
            "failure": failure,
            "captions": {
                "start": said(captions(played.before, rng, _NUM_CAPTIONS, about=goal)),
                "end": said(captions(played.after, rng, _NUM_CAPTIONS, played.before, goal)),
            },
            "states": {"start": played.before.to_json(), "end": played.after.to_json()},
            "places": {MAIN: _places(task, played.before)} if MAIN in config.cameras else {},
            "renderer": self.facts.renderer,
            "alternatives_group": config.scene_of(start),
        }
        return Episode(
            id=name,
            videos={
                camera: EncodedFrames([_encode(obs[camera]) for obs in played.seen], name)
                for camera in config.cameras
            },
            actions=played.actions,
            state=np.stack([obs["state"] for obs in played.seen]).astype(np.float32),
            instruction=wordings[0],
            instructions=(wordings[0], *(wordings[i] for i in others)),
            outcome="success" if failure is None else "failure",
            fps=float(FPS),
            source="aid_robot/Tabletop-v0",
            scene=config.scene_of(start),
            info=info,
        )


@dataclass(frozen=True)
class _Played:
    """What happened when a task was done."""

    seen: Sequence[Mapping[str, Any]]
    actions: FloatArray  # (T, 7)
    before: SceneState
    after: SceneState


def _places(task: Task, scene: SceneState) -> dict[str, list[float]]:
    """Say where the main camera sees what a task names."""
    named = {"object": task.object, "target": task.target}
    return {
        role: ((1 + see(scene[name].position)) / 2).round(4).tolist()
        for role, name in named.items()
        if name in scene.names
    }


def _failures(task: Task, offered: Sequence[Task]) -> list[Failure]:
    """Say in which ways a task can go wrong where these are offered."""
    where = (task.target, task.direction)
    others = [t for t in offered if t.skill == task.skill and t != task]
    found = {
        "wrong_object": any((t.target, t.direction) == where for t in others),
        "wrong_target": any(t.object == task.object for t in others),
    }
    return [failure for failure in FAILURES_OF[task.skill] if found.get(failure, True)]


def _encode(frame: UInt8Array) -> bytes:
    """Compress a frame as the store would, so that it takes the bytes as they are."""
    return JpegCodec().encode_content(frame[None])
