"""Planners of many environments decide together, and as one alone would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from aid_robot.data.store import EpisodeStore
from aid_robot.envs.decisions import DecisionRecorder
from aid_robot.envs.executors import PolicyExecutor
from aid_robot.envs.foresight import ForesightPlanner
from aid_robot.envs.foresight_vector import VectorForesightPlanner
from aid_robot.errors import ConfigError, PlanError
from tests.planning.dots import DotEnv, DotPredictor, SideScorer, policy

PLANS = ["go left", "go right", "stay"]


def executor() -> PolicyExecutor:
    return PolicyExecutor(policy, max_steps=4)


def planner(*goals: str, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **changes: Any) -> Any:
    envs = SyncVectorEnv([lambda goal=goal: DotEnv(goal) for goal in goals], autoreset_mode=mode)
    arguments: dict[str, Any] = {"propose": PLANS, "executor": executor, **changes}
    return VectorForesightPlanner(envs, DotPredictor(), SideScorer(), **arguments)


def test_each_environment_goes_its_own_way_in_one_batch() -> None:
    envs = planner("go left", "go right", "go left", num_samples=2)
    envs.reset(seed=0)
    *_, info = envs.step()
    assert info["foresight"]["plan"].tolist() == ["go left", "go right", "go left"]
    assert envs.decider.predictor.calls == [3 * 3 * 2]
    ended = np.zeros(3, bool)
    for _ in range(12):
        _, rewards, terminated, _, _ = envs.step(envs.action_space.sample())
        assert (rewards[terminated] == 1).all()
        ended |= terminated
    assert ended.all()


def test_decisions_are_those_of_one_alone() -> None:
    envs = planner("go left", "go right")
    envs.reset(seed=[5, 6])
    alone = ForesightPlanner(
        DotEnv("go right"), DotPredictor(), SideScorer(), propose=PLANS, executor=executor()
    )
    alone.reset(seed=6)
    for _ in range(5):
        obs, _, _, _, info = envs.step()
        one, _, _, _, expected = alone.step(0)
        assert np.array_equal(obs["image_0"][1], one["image_0"])
        assert info["foresight"]["decision"][1] == expected["foresight"]["decision"]
        assert info["foresight"]["due"][1] == expected["foresight"]["due"]


def test_ended_environments_begin_anew() -> None:
    envs = planner("go left", "stay")
    envs.reset(seed=0)
    for _ in range(20):
        obs, _, terminated, _, _ = envs.step()
        if terminated[0]:
            break
    assert terminated.tolist() == [True, False]
    obs, _, terminated, truncated, info = envs.step()
    assert not (terminated | truncated).any()
    assert abs(obs["state"][0, 0] - 16) <= 1, "it was reset, and nothing was done yet"
    assert info["foresight"]["decision"][0] is None
    obs, *_, info = envs.step()
    assert info["foresight"]["plan"][0] == "go left"
    assert info["foresight"]["is_new"].tolist()[0]


def test_one_that_abstains_is_truncated_and_reset() -> None:
    envs = planner("go left", "go up", threshold=0.7)
    envs.reset(seed=0)
    _, rewards, _, truncated, info = envs.step()
    assert truncated.tolist() == [False, True]
    assert info["foresight"]["abstained"].tolist() == [False, True]
    assert "below the threshold" in info["foresight"]["reason"][1]
    assert rewards.tolist() == [0, 0]
    x = envs.pilots[0].state[0]
    envs.env.envs[1].place[:] = 25
    obs, _, _, truncated, info = envs.step()
    assert truncated.tolist() == [False, False]
    assert (np.abs(obs["state"][1, :2] - 16) <= 1).all(), "it was reset"
    assert envs.pilots[0].state[0] == x - 2, "the other went on"
    assert info["foresight"]["decision"][1] is None
    *_, truncated, info = envs.step()
    assert truncated.tolist() == [False, True], "the next episode is no better"


def test_caller_may_reset_them() -> None:
    envs = planner("go left", "go right", mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    for _ in range(12):
        obs, _, terminated, truncated, _ = envs.step()
        over = terminated | truncated
        if over.any():
            obs, info = envs.reset(options={"reset_mask": over})
            assert (np.abs(obs["state"][over, 0] - 16) <= 1).all()
            assert [d is None for d in info["foresight"]["decision"]] == over.tolist()
    with pytest.raises(ConfigError, match="their last frames are not seen"):
        planner("stay", mode=AutoresetMode.SAME_STEP)


def test_a_goal_for_each(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "decisions.zarr") as store:
        envs = planner(
            "stay", "stay", goal=["go left", "go right"], recorder=DecisionRecorder(store)
        )
        envs.reset(seed=0)
        for _ in range(5):
            *_, info = envs.step()
        assert info["foresight"]["plan"].tolist() == ["go left", "go right"]
        envs.close()
    store = EpisodeStore.open(tmp_path / "decisions.zarr")
    # Four steps each, and what had begun when they were closed.
    assert [len(episode) for episode in store] == [5, 5, 2, 2]
    assert {episode.instruction for episode in store} == {"go left", "go right"}
    assert store[0].outcome is None, "success is told of another task"
    with pytest.raises(PlanError, match="1 goals were given for 2"):
        planner("stay", "stay", goal=["go left"])


def test_goals_and_plans_of_an_episode() -> None:
    envs = planner("stay", "stay")
    with pytest.raises(gymnasium.error.ResetNeeded):
        envs.step()
    envs.reset(seed=0, options={"goal": ["go up", "go left"], "plans": ["go left", "go up"]})
    *_, info = envs.step()
    assert info["foresight"]["plan"].tolist() == ["go up", "go left"]
    envs.reset(seed=0)
    *_, info = envs.step()
    assert [str(plan) for plan in info["foresight"]["decision"][0].plans] == PLANS


class Telling(DotEnv):
    """Says other things when it begins than in its steps."""

    def reset(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self.steps = 0
        obs, info = super().reset(**options)
        return obs, {**info, "began": True}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        *rest, info = super().step(action)
        return (*rest, {**info, "began": False, "steps": self.steps})


class Walled(PolicyExecutor):
    def obstacle(self, env: Any, instruction: str) -> str | None:
        return f"no way to {instruction}" if env.goal == "go left" else None


def test_where_nothing_can_be_begun_the_others_go_on() -> None:
    made = SyncVectorEnv(
        [lambda goal=goal: Telling(goal) for goal in ("go left", "go right")],
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    envs = VectorForesightPlanner(
        made, DotPredictor(), SideScorer(), propose=PLANS,
        executor=lambda: Walled(policy, max_steps=4),
    )  # fmt: skip
    envs.reset(seed=0)
    *_, truncated, info = envs.step()
    assert truncated.tolist() == [True, False]
    assert info["foresight"]["abstained"].tolist() == [True, False]
    assert "no way to go left" in info["foresight"]["reason"][0]
    assert info["foresight"]["plan"][1] == "go right"
    *_, info = envs.step()
    assert info["began"].tolist() == [True, False], "the info is that of the new episode"
    assert info["_steps"].tolist() == [False, True]
