"""A planner over the world of the dot, and an episode of it."""

from __future__ import annotations

from typing import Any

import gymnasium

from aid_robot.envs.executors import PolicyExecutor
from aid_robot.envs.foresight import ForesightPlanner
from tests.planning.dots import DotEnv, DotPredictor, SideScorer, policy

SIDES = ["go left", "go right", "go up", "go down"]


def planner(env: gymnasium.Env[Any, Any] | None = None, **changes: Any) -> ForesightPlanner:
    defaults: dict[str, Any] = {
        "propose": SIDES,
        "executor": PolicyExecutor(policy, max_steps=5),
        "num_candidates": 5,
    }
    arguments = {**defaults, **changes}
    predictor = arguments.pop("predictor", None) or DotPredictor()
    scorer = arguments.pop("scorer", None) or SideScorer()
    return ForesightPlanner(env or DotEnv(), predictor, scorer, **arguments)


def run(env: gymnasium.Env[Any, Any], steps: int = 60, **reset: Any) -> list[tuple[Any, ...]]:
    """Step until the episode is over; what reset and every step returned, as 5-tuples."""
    obs, info = env.reset(**reset)
    rows: list[tuple[Any, ...]] = [(obs, 0.0, False, False, info)]
    while not (rows[-1][2] or rows[-1][3]) and len(rows) <= steps:
        rows.append(env.step(0))
    return rows
