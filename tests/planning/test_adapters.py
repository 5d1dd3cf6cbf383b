"""Scorers behind LeRobot's and stable-worldmodel's signatures."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from aid_robot.errors import ScoreError
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers import Custom
from aid_robot.planning.scorers.adapters import PlanCost, RewardModel
from tests.planning.clips import SIDE, moving, picture
from tests.planning.dots import DotPredictor, SideScorer, draw


def right_edge(foresight, goal):
    """Score by where the square is at the end; the goal's text turns it round."""
    place = np.argmax(foresight.frames[:, -1, 16, :, 0] > 200, axis=1) / SIDE
    return 1 - place if goal.text == "go left" else place


def as_tensors(*clips) -> torch.Tensor:
    """Turn foresights into (B, T, 3, H, W) floats in [0, 1]."""
    frames = np.stack([clip.frames[0] for clip in clips])
    return torch.from_numpy(frames).movedim(-1, -3).float() / 255


def test_rewards_have_lerobots_signature() -> None:
    assert list(inspect.signature(RewardModel.compute_reward).parameters) == ["self", "batch"]
    batch = {
        "observation.images.image_0": as_tensors(moving(6), moving(22), moving(22)),
        "observation.images.image_0_is_pad": torch.zeros(3, 6, dtype=torch.bool),
        "task": ["go right", "go right", "go left"],
    }
    rewards = RewardModel(Custom(right_edge)).compute_reward(batch)
    assert rewards.shape == (3,)
    assert rewards.dtype == torch.float32
    assert rewards.tolist() == pytest.approx([2 / 32, 18 / 32, 14 / 32])
    binary = RewardModel(Custom(right_edge), binary=True).compute_reward(batch)
    assert binary.tolist() == [0, 1, 0]


def test_rewards_go_by_pictures_too() -> None:
    def same(foresight, goal):
        return float(np.abs(foresight.frames[:, -1].astype(float) - goal.image).mean() < 1)

    goal = torch.from_numpy(picture(22)).movedim(-1, 0).float()[None] / 255
    batch = {"observation.image": as_tensors(moving(22)), "goal": goal}
    assert RewardModel(Custom(same)).compute_reward(batch).tolist() == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "go"}, "list of 1 texts"),
        ({"task": None}, "neither"),
        ({"observation.images.a": torch.zeros(1, 3, 8, 8)}, r"\(B, T, 3, H, W\)"),
        ({"observation.images.a": torch.full((1, 2, 3, 8, 8), 7.0)}, r"\[0, 1\]"),
        ({"observation.images.b": torch.zeros(1, 2, 3, 8, 8)}, "name one"),
    ],
)
def test_batches_of_another_kind_are_refused(change, message) -> None:
    batch = {"observation.images.a": torch.zeros(1, 2, 3, 8, 8), "task": ["go"], **change}
    with pytest.raises(ScoreError, match=message):
        RewardModel(Custom(right_edge)).compute_reward(batch)


def info(count: int, candidates: int) -> dict:
    """Build what a stable-worldmodel solver hands over, expanded over its candidates."""
    pixels = torch.from_numpy(draw(16, 16)).movedim(-1, 0)[None, None, None]
    return {
        "pixels": pixels.expand(count, candidates, 1, -1, -1, -1),
        "goal_text": ["go right"] * count,
    }


def test_costs_have_stable_worldmodels_signature() -> None:
    names = list(inspect.signature(PlanCost.get_cost).parameters)
    assert names == ["self", "info_dict", "action_candidates"]
    predictor = DotPredictor()
    cost = PlanCost(predictor, SideScorer(), ["go left", "go right", "stay"], num_samples=2)
    plans = torch.tensor([[[0, 0], [1, 1], [1, 0], [1, 1], [1, -1], [-1, -1]]])[..., None]
    costs = cost.get_cost(info(1, 6), plans.float())
    assert costs.shape == (1, 6)
    away, there, back, again, once, nothing = costs[0].tolist()
    assert there < once < nothing < away
    assert back == pytest.approx(nothing, abs=0.05)
    assert there == again
    # Each different prefix is imagined once: 2 first steps, then 3 second ones.
    assert predictor.calls == [2 * 2, 3 * 2]
    assert torch.equal(cost.criterion(info(1, 6), plans.float()), costs)


def test_costs_of_several_observations() -> None:
    cost = PlanCost(DotPredictor(), SideScorer(), ["go left", "go right"])
    candidates = torch.tensor([[[0], [1]], [[1], [0]]])[..., None].float()
    costs = cost.get_cost(info(2, 2), candidates)
    assert costs.argmin(1).tolist() == [1, 0]


def test_actions_that_are_no_instructions_are_refused() -> None:
    cost = PlanCost(DotPredictor(), SideScorer(), ["go left"])
    with pytest.raises(ScoreError, match="-1 to 0"):
        cost.get_cost(info(1, 1), torch.ones(1, 1, 1, 1))
    with pytest.raises(ScoreError, match="horizon"):
        cost.get_cost(info(1, 1), torch.ones(1, 1, 1, 7))
    with pytest.raises(ScoreError, match="pixels"):
        cost.get_cost({}, torch.zeros(1, 1, 1, 1))


def test_a_goal_as_a_picture_reaches_the_scorer() -> None:
    seen: list[Goal] = []

    def keep(foresight, goal):
        seen.append(goal)
        return 0.5

    cost = PlanCost(DotPredictor(), Custom(keep), ["stay"])
    goal = torch.from_numpy(draw(20, 16)).movedim(-1, 0)[None, None, None]
    given = {"pixels": info(1, 1)["pixels"], "goal": goal}
    cost.get_cost(given, torch.zeros(1, 1, 1, 1))
    assert np.array_equal(seen[0].image, draw(20, 16))
