"""Scenes of the planning benchmark: candidates, goals, and what truly comes of each candidate.

A scene is a pure function of the seed and its number, and is kept in a file once made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aid_robot.envs.tabletop.captions import goal_paraphrases, statements
from aid_robot.envs.tabletop.env import TabletopEnv
from aid_robot.envs.tabletop.feasible import feasible
from aid_robot.envs.tabletop.goals import Goal, goal_of, holds, succeeded
from aid_robot.envs.tabletop.language import describe
from aid_robot.envs.tabletop.skills import make_actions
from aid_robot.envs.tabletop.state import SceneState
from aid_robot.envs.tabletop.tasks import Task
from aid_robot.errors import SimulationError

# Scenes of other seeds are those that models are trained on.
SEED = 2_026_07
# Every so many frames of a true future are drawn, and the last.
EVERY = 3
_STILL = 2
_TRIES = 40
# Goals that candidates bring about in passing; what the gripper holds is not seen well.
_SIDE_GOALS = ("on", "in", "next_to", "left_of", "right_of", "in_front_of", "behind",
               "open", "closed")  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What is known of a scene beside its pictures."""

    number: int
    # Of the environment's reset.
    seed: int
    # 1 or 2 instructions a plan.
    steps: int
    plans: list[list[str]]
    # The goal as text, and whether it is the very goal of a candidate, or a consequence.
    text: str
    # The same as predicates with their arguments.
    goals: list[list[str]]
    direct: bool
    # Whether each plan, carried out, reaches the goal in text, and that in the picture.
    reaches_text: list[bool]
    reaches_image: list[bool]
    names: list[str]
    # Actions of each plan.
    lengths: list[int]


@dataclass(frozen=True, eq=False)
class Scene:
    """A start, its goal as a picture, and the true futures of its plans."""

    facts: Facts
    observation: NDArray[np.uint8]  # (H, W, 3)
    goal: NDArray[np.uint8]  # (H, W, 3), from another execution
    futures: tuple[NDArray[np.uint8], ...]  # (T, H, W, 3) a plan, observation first


class SceneMaker:
    """Make scenes with an environment of its own."""

    def __init__(self, folder: Path, size: int, preset: str = "default", most: int = 8) -> None:
        self.folder, self.most = folder, most
        self.env = TabletopEnv(preset=preset, size=(size, size), end_on_success=False)
        self.settings = {"size": size, "preset": preset, "most": most, "every": EVERY, "seed": SEED}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "settings.json"
        if path.exists() and json.loads(path.read_text()) != self.settings:
            raise SystemExit(f"{folder} holds scenes of other settings: name another --work")
        path.write_text(json.dumps(self.settings) + "\n")

    def scene(self, number: int, steps: int) -> Scene:
        """Load a scene, or make it."""
        path = self.folder / f"{steps}-{number:04d}.npz"
        if path.exists():
            return load_scene(path)
        for attempt in range(_TRIES):
            rng = np.random.default_rng((SEED, steps, number, attempt))
            seed = int(rng.integers(2**31))
            self.env.reset(seed=seed)
            found = (self._one if steps == 1 else self._two)(number, seed, rng)
            if found is not None:
                partial = path.with_suffix(".part")
                with partial.open("wb") as file:
                    np.savez_compressed(
                        file, facts=json.dumps(asdict(found.facts)),
                        observation=found.observation, goal=found.goal,
                        **{f"future{i}": clip for i, clip in enumerate(found.futures)},
                    )  # fmt: skip
                partial.replace(path)
                return found
        raise SimulationError(f"no scene for number {number} in {_TRIES} tries")

    # -- one step ----------------------------------------------------------------------------

    def _one(self, number: int, seed: int, rng: np.random.Generator) -> Scene | None:
        start, before = self.env.save_state(), self.env.scene_state()
        tasks = _varied([t for t in feasible(before) if t.skill != "idle"], rng, self.most)
        if len(tasks) < 4:
            return None
        done = [self._carry_out(start, [task]) for task in tasks]
        if any(end is None for end in done):
            return None
        ends = [end for end in done if end is not None]
        done_well = [i for i, task in enumerate(tasks) if succeeded(task, before, ends[i].state)]
        if not done_well:
            return None
        wanted, goal = int(rng.choice(done_well)), None
        if rng.random() < 0.5:
            for other in rng.permutation(done_well).tolist():
                goal = self._consequence(before, ends, other, goal_of(tasks[other]), rng)
                if goal is not None:
                    wanted = other
                    break
        own = goal_of(tasks[wanted])
        direct, goal = goal is None, goal or own
        wordings = goal_paraphrases(goal, before)
        facts = Facts(
            number=number, seed=seed, steps=1, plans=[[describe(task)] for task in tasks],
            text=wordings[int(rng.integers(len(wordings)))], goals=[goal.to_json()], direct=direct,
            reaches_text=[bool(holds(goal, end.state, before)) for end in ends],
            reaches_image=[bool(holds(own, end.state, before)) for end in ends],
            names=list(before.names), lengths=[end.length for end in ends],
        )  # fmt: skip
        picture = self._picture(start, [tasks[wanted]], [own], before, rng)
        return Scene(facts, ends[0].clip[0], picture, tuple(end.clip for end in ends))

    def holds(self, facts: Facts, before: SceneState) -> bool:
        """Say whether a scene's goal in text is reached in the environment as it is now."""
        goals = [Goal(predicate, tuple(args)) for predicate, *args in facts.goals]
        return all(holds(goal, self.env.scene_state(), before) for goal in goals)

    def _consequence(
        self, before: SceneState, ends: list[_End], wanted: int, own: Goal, rng: np.random.Generator
    ) -> Goal | None:
        """Draw something else that a plan brings about, and few others do."""
        goals = [
            goal
            for goal in statements(ends[wanted].state, before)
            if goal.predicate in _SIDE_GOALS and goal != own
            if holds(goal, ends[wanted].state, before) and not holds(goal, before, before)
            if sum(holds(goal, end.state, before) for end in ends) <= len(ends) / 2
        ]
        return goals[int(rng.integers(len(goals)))] if goals else None

    # -- two steps ---------------------------------------------------------------------------

    def _two(self, number: int, seed: int, rng: np.random.Generator) -> Scene | None:
        start, before = self.env.save_state(), self.env.scene_state()
        # What is lifted stays in the gripper, and nothing can follow.
        firsts = [t for t in feasible(before) if t.skill not in ("idle", "lift")]
        firsts = _varied(firsts, rng, 2, per_object=1)
        if len(firsts) < 2:
            return None
        plans: list[list[Task]] = []
        ends: list[_End] = []
        for first in firsts:
            middle = self._carry_out(start, [first])
            if middle is None or not succeeded(first, before, middle.state):
                return None
            after = [t for t in feasible(middle.state) if t.skill != "idle"]
            after = [t for t in after if t.object != first.object]
            if not plans:
                seconds = _varied(after, rng, 3)
            else:
                # The second step of the wanted plan after the other first one, and others.
                same = [t for t in after if t == plans[0][1]]
                seconds = same + _varied([t for t in after if t not in same], rng, 3 - len(same))
            for second in seconds:
                end = self._carry_out(start, [first, second])
                if end is None:
                    return None
                plans.append([first, second])
                ends.append(end)
        if len(plans) < 4:
            return None
        goals = [goal_of(task) for task in plans[0]]
        reached = [all(bool(holds(g, end.state, before)) for g in goals) for end in ends]
        already = any(holds(g, before, before) for g in goals)
        if not reached[0] or all(reached) or already or goals[0] == goals[1]:
            return None
        said = [goal_paraphrases(goal, before) for goal in goals]
        order = rng.permutation(len(plans)).tolist()
        facts = Facts(
            number=number, seed=seed, steps=2,
            plans=[[describe(task) for task in plans[i]] for i in order],
            text=" and ".join(words[int(rng.integers(len(words)))] for words in said),
            goals=[goal.to_json() for goal in goals], direct=True,
            reaches_text=[reached[i] for i in order], reaches_image=[reached[i] for i in order],
            names=list(before.names), lengths=[ends[i].length for i in order],
        )  # fmt: skip
        picture = self._picture(start, plans[0], goals, before, rng)
        return Scene(facts, ends[0].clip[0], picture, tuple(ends[i].clip for i in order))

    # -- the world ---------------------------------------------------------------------------

    def _carry_out(self, start: Any, tasks: list[Task]) -> _End | None:
        """Do tasks one after the other; None where one can't be begun."""
        env = self.env
        env.restore_state(start)
        frames, steps = [env.observe()["image_0"]], 0
        for task in tasks:
            try:
                actions = make_actions(env.world, task)
            except SimulationError:
                return None
            action = np.zeros(7, np.float32)
            for action in actions:
                env.world.step(action)
                steps += 1
                if steps % EVERY == 0:
                    frames.append(env.observe()["image_0"])
        rest = np.zeros(7, np.float32)
        rest[6] = action[6]
        for _ in range(_STILL):
            env.world.step(rest)
        frames.append(env.observe()["image_0"])
        return _End(np.stack(frames), env.scene_state(), steps + _STILL)

    def _picture(
        self, start: Any, tasks: list[Task], goals: list[Goal], before: SceneState,
        rng: np.random.Generator,
    ) -> NDArray[np.uint8]:  # fmt: skip
        """Show the goal as another execution reaches it, begun elsewhere in the air."""
        env = self.env
        for attempt in range(4):
            env.restore_state(start)
            # The last attempt is the execution itself.
            for _ in range(3 * (attempt < 3)):
                action = np.zeros(7, np.float32)
                action[:3], action[6] = rng.uniform(-0.04, 0.04, 3), 1
                action[2] = abs(action[2])
                env.world.step(action)
            moved = env.save_state()
            end = self._carry_out(moved, tasks)
            if end is not None and all(holds(goal, end.state, before) for goal in goals):
                break
        assert end is not None
        return end.clip[-1]


@dataclass(frozen=True, eq=False)
class _End:
    """What came of a plan."""

    clip: NDArray[np.uint8]
    state: SceneState
    length: int


def load_scene(path: Path) -> Scene:
    """Read a scene's file."""
    with np.load(path) as file:
        facts = Facts(**json.loads(str(file["facts"])))
        futures = tuple(file[f"future{i}"] for i in range(len(facts.plans)))
        return Scene(facts, file["observation"], file["goal"], futures)


def _varied(
    tasks: list[Task], rng: np.random.Generator, most: int, per_object: int = 3
) -> list[Task]:
    """Draw tasks of many skills, few of them with the same thing."""
    order = [tasks[i] for i in rng.permutation(len(tasks))]
    chosen: list[Task] = []
    seen: dict[str, int] = {}
    while order and len(chosen) < most:
        # Of the skill that was drawn least so far.
        counts = {t.skill: sum(c.skill == t.skill for c in chosen) for t in order}
        task = min(order, key=lambda t: counts[t.skill])
        order.remove(task)
        if seen.get(task.object, 0) < per_object:
            chosen.append(task)
            seen[task.object] = seen.get(task.object, 0) + 1
    return chosen
