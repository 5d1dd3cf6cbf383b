"""What a planner did, and what came of it, is kept as episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from aid_robot.data.store import EpisodeStore
from aid_robot.envs.decisions import DecisionRecorder
from aid_robot.errors import ConfigError
from aid_robot.planning.goals import Goal
from aid_robot.planning.outcomes import read_carried_out
from tests.envs.planners import planner, run
from tests.planning.dots import DotEnv


def test_decisions_are_recorded(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "decisions.zarr") as store:
        env = planner(DotEnv("go right"), recorder=DecisionRecorder(store))
        run(env, seed=0)
        env.close()
    store = EpisodeStore.open(tmp_path / "decisions.zarr")
    assert len(store) == 2
    first, last = store[0], store[1]
    assert (len(first), first.outcome, last.outcome) == (6, "failure", "success")
    assert first.instruction == "go right"
    assert first.actions is not None
    assert first.actions[:5, 0].tolist() == [2] * 5
    assert first.state is not None
    assert np.diff(first.state[:, 0]).tolist() == [2] * 5
    decision = first.info["decision"]
    assert decision["plans"][decision["carried_out"]]["steps"] == ["go right"]
    plans = read_carried_out((episode.id, episode.info) for episode in (first, last))
    assert [plan.success for plan in plans] == [False, True]
    seen, imagined = first.videos["image_0"][:], first.videos["imagined"][:]
    assert np.abs(seen.astype(int) - imagined).mean() < 12


def recorded(path: Path, steps: int = 60, **changes: Any) -> list[Any]:
    """Run an episode with a recorder; returns what was said of each plan's success."""
    env = changes.pop("env", DotEnv("go right"))
    with EpisodeStore.create(path) as store:
        wrapped = planner(env, recorder=DecisionRecorder(store), **changes)
        run(wrapped, steps, seed=0)
        wrapped.close()
    return [episode.info["decision"]["success"] for episode in EpisodeStore.open(path)]


def test_a_plan_that_a_limit_on_time_cuts_short_is_no_failure(tmp_path: Path) -> None:
    assert recorded(tmp_path / "whole.zarr") == [False, True]
    cut = TimeLimit(DotEnv("go right"), 3)
    assert recorded(tmp_path / "cut.zarr", env=cut) == [None]
    assert recorded(tmp_path / "replanned.zarr", replan_every=2)[:2] == [None, None]


def test_the_caller_may_say_whether_a_goal_of_its_own_was_reached(tmp_path: Path) -> None:
    corner = {"goal": Goal("go left"), "max_plans": 1}
    assert recorded(tmp_path / "open.zarr", **corner) == [None]
    told = recorded(tmp_path / "told.zarr", outcome=lambda info: np.bool_(True), **corner)
    assert told == [True]
    assert recorded(tmp_path / "not.zarr", outcome=lambda info: None, **corner) == [None]


class Dictated(DotEnv):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = gymnasium.spaces.Dict({"arm": self.action_space})


def test_what_can_not_be_recorded_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with EpisodeStore.create(tmp_path / "s.zarr") as store, pytest.raises(ConfigError, match="Box"):
        planner(Dictated(), recorder=DecisionRecorder(store))
