"""The planner on the simulated table, with its own skills and what they allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import aid_robot.envs  # noqa: F401  registers the environments
from aid_robot.baselines import CopyLastFrame
from aid_robot.clip import Foresight
from aid_robot.envs.foresight import ForesightPlanner
from aid_robot.envs.foresight_vector import VectorForesightPlanner
from aid_robot.envs.tabletop.feasible import feasible
from aid_robot.envs.tabletop.goals import goal_of, holds
from aid_robot.envs.tabletop.language import describe, parse
from aid_robot.envs.tabletop.plans import SceneSkills, SkillExecutor, expected
from aid_robot.envs.tabletop.tasks import Task
from aid_robot.errors import ConfigError, PlanError
from aid_robot.planning.goals import Goal
from aid_robot.planning.propose import Situation
from tests.envs.scenes import kitchen
from tests.tiny import tiny_config

PREDICTOR = CopyLastFrame(tiny_config())


def make(**options: Any) -> gymnasium.Env[Any, Any]:
    arguments = {"size": (48, 64), "shadows": False, "disable_env_checker": True, **options}
    return gymnasium.make("aid_robot/Tabletop-v0", **arguments)


class SaysSo:
    """Prefers the plan that says what the goal says."""

    name = "same words"

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> Any:
        same = [
            np.mean([word in str(goal.text).split() for word in clip.instruction.split()])
            for clip in foresights
        ]
        return np.repeat(np.array(same, np.float64)[:, None], foresights[0].num_samples, axis=1)


def test_feasible_skill_is_proposed_chosen_and_done() -> None:
    env = ForesightPlanner(make(), PREDICTOR, SaysSo(), max_plans=1)
    obs, info = env.reset(seed=3)
    told = obs["instruction"]
    scene = env.unwrapped.scene_state()
    over, steps = False, 0
    while not over:
        obs, reward, terminated, truncated, info = env.step(0)
        over, steps = terminated or truncated, steps + 1
    assert terminated
    assert reward == 1
    decision = info["foresight"]["decision"]
    assert parse(str(decision.plan), scene) == parse(told, scene)
    assert len(decision.plans) <= 8
    assert steps > 4
    for plan in decision.plans:
        assert parse(plan.steps[0], scene) in feasible(scene)


def test_infeasible_candidates_are_refused() -> None:
    env = ForesightPlanner(make(), PREDICTOR, SaysSo(), propose=["lift the moon", "do nothing"])
    env.reset(seed=0)
    with pytest.raises(PlanError, match="'lift the moon' can't be begun: the scene has no 'moon'"):
        env.step(0)


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version:UserWarning")
@pytest.mark.filterwarnings("ignore:.*alternative render modes:UserWarning")
@pytest.mark.filterwarnings("ignore:.*infinit:UserWarning")
@pytest.mark.parametrize("mode", ["auto", "discrete"])
def test_gymnasiums_own_check_passes(mode: Any) -> None:
    # Without its time limit and order wrappers, whose spec would make plain tabletops.
    env = make(render_mode="rgb_array", size=(24, 32)).unwrapped
    env.spec = None
    check_env(ForesightPlanner(env, PREDICTOR, SaysSo(), mode=mode, num_candidates=3))


def test_vector_of_tabletops() -> None:
    envs = gymnasium.make_vec(
        "aid_robot/Tabletop-v0", 2, vectorization_mode="sync", size=(24, 32), shadows=False
    )
    planner = VectorForesightPlanner(envs, PREDICTOR, SaysSo(), num_candidates=4)
    planner.reset(seed=0)
    for _ in range(3):
        *_, info = planner.step()
    assert info["foresight"]["steps"].tolist() == [3, 3]
    assert all(decision.plan is not None for decision in info["foresight"]["decision"])
    planner.close()


def test_two_steps_are_proposed_where_the_first_makes_the_second_possible() -> None:
    scene = kitchen()
    env = make()
    env.reset(seed=0)
    table: Any = env.unwrapped
    table.scene_state = lambda: scene
    goal = Goal("the carrot is in the drawer")
    plans = [str(plan) for plan in SceneSkills(depth=2)(situation(env, goal))]
    assert "open the drawer -> put the carrot in the drawer" in plans
    single = [str(plan) for plan in SceneSkills()(situation(env, goal, 1000))]
    assert "put the carrot in the drawer" not in single, "it is shut"
    assert "do nothing" not in single
    assert "do nothing" in [str(p) for p in SceneSkills(idle=True)(situation(env, goal, 1000))]


def situation(env: Any, goal: Goal, limit: int = 40) -> Situation:
    return Situation(np.zeros((4, 4, 3), np.uint8), goal, limit, env=env)


def test_expected_scenes_fulfil_their_tasks() -> None:
    scene = kitchen()
    for task in feasible(scene):
        assert holds(goal_of(task), expected(task, scene), scene), describe(task)


def test_skills_rest_at_their_end_and_need_a_table() -> None:
    env = make()
    env.reset(seed=1)
    task = next(task for task in feasible(env.unwrapped.scene_state()) if task.skill == "lift")
    executor = SkillExecutor()
    executor.start(env, describe(task))
    actions = []
    while (action := executor.act(None)) is not None:
        actions.append(action)
        env.step(action)
    assert not actions[-1][:6].any()
    assert actions[-1][6] == actions[-2][6]
    assert executor.act(None) is None
    assert env.unwrapped.scene_state().held == task.object
    assert executor.obstacle(env, describe(task)) is not None
    with pytest.raises(ConfigError, match="give an executor and proposer"):
        executor.start(None, describe(Task("idle")))
