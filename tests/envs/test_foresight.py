"""A planner over any environment with images does what leads to the goal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

from aid_robot.envs.executors import PolicyExecutor
from aid_robot.envs.pilot import departure
from aid_robot.errors import (
    AIDRobotError,
    ConfigError,
    FrameRateError,
    ObservationError,
    PlanError,
    ScoreError,
)
from aid_robot.planning.choose import Beam
from aid_robot.planning.goals import Goal
from tests.envs.planners import SIDES, planner, run
from tests.planning.dots import WAYS, DotEnv, DotPredictor, SideScorer, draw, policy


@pytest.mark.parametrize("goal", SIDES)
def test_the_plan_that_leads_to_the_goal_is_carried_out(goal: str) -> None:
    rows = run(planner(DotEnv(goal)), seed=0)
    *_, info = rows[-1]
    assert rows[-1][2], "the environment ends at its goal"
    assert info["foresight"]["plan"] == goal
    decision = info["foresight"]["decision"]
    assert str(decision.plan) == goal
    assert decision.scores.argmax() == SIDES.index(goal)
    assert decision.foresights[0].frames.shape == (1, 6, 32, 32, 3)
    assert decision.timings["total"] > 0


def test_decisions_are_made_where_they_are_due() -> None:
    rows = run(planner(DotEnv("go right")), seed=0)
    new = [number for number, row in enumerate(rows) if row[4]["foresight"]["is_new"]]
    # The policy takes 5 steps an instruction, and the goal is 6 or 7 away.
    assert new == [1, 6]
    assert rows[5][4]["foresight"]["due"] == "plan done"
    rows = run(planner(DotEnv("go right"), replan_every=2), seed=0)
    new = [number for number, row in enumerate(rows) if row[4]["foresight"]["is_new"]]
    assert new[:3] == [1, 3, 5]


def test_surprise_makes_it_decide_anew() -> None:
    env = DotEnv("go right")
    rows = run(planner(env, surprise=0.1), seed=0)
    assert max(row[4]["foresight"]["departure"] for row in rows) < 0.05
    wrapped = planner(env, surprise=0.1)
    wrapped.reset(seed=0)
    wrapped.step(0)
    env.kick = np.array([0.0, 9.0])  # someone pushes the dot
    *_, info = wrapped.step(0)
    assert info["foresight"]["due"] == "surprise"
    assert info["foresight"]["departure"] > 0.1
    *_, info = wrapped.step(0)
    assert info["foresight"]["is_new"]
    assert info["foresight"]["departure"] < 0.05


def test_plan_in_hand_goes_on_where_it_is_chosen_again() -> None:
    executor = CountingExecutor(policy, max_steps=5)
    run(planner(DotEnv("go right"), executor=executor, replan_every=2), seed=0)
    assert executor.starts == 2, "5 steps each, however often it is chosen"


class CountingExecutor(PolicyExecutor):
    starts = 0

    def start(self, env: Any, instruction: str) -> None:
        self.starts += 1
        super().start(env, instruction)


def test_plans_of_several_steps_are_carried_out_in_order() -> None:
    env = DotEnv("go right")
    wrapped = planner(env, propose=["stay -> go left", "stay -> go right"])
    rows = run(wrapped, seed=0)
    told = [row[4]["foresight"]["instruction"] for row in rows[1:11]]
    # What comes next is told: the first four steps are followed by another "stay".
    assert told == ["stay"] * 4 + ["go right"] * 5 + [""]
    # The imagined frames of the second step stand beside its steps.
    assert max(row[4]["foresight"]["departure"] for row in rows[1:11]) < 0.05


def test_beam_composes_plans() -> None:
    env = DotEnv("go right")
    wrapped = planner(env, propose=["stay", "go right"], beam=Beam(width=2, depth=2))
    rows = run(wrapped, seed=0)
    plans = {str(plan) for plan in rows[1][4]["foresight"]["decision"].plans}
    assert plans == {"stay", "go right", "stay -> go right", "go right -> stay"}


def test_discrete_actions_are_candidates() -> None:
    env = planner(DotEnv("go right"), mode="discrete")
    _, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [1, 1, 1, 1, 0]
    assert str(info["foresight"]["decision"].plan) == "go right"
    x = env.unwrapped.place[0]
    _, reward, terminated, truncated, info = env.step(SIDES.index("go left"))
    assert env.unwrapped.place[0] == x - 10, "the whole skill"
    assert (reward, terminated, truncated) == (0, False, False)
    assert info["foresight"]["is_new"], "the next candidates are imagined"
    before = env.unwrapped.place.copy()
    _, reward, terminated, truncated, _ = env.step(4)
    assert np.array_equal(env.unwrapped.place, before), "there is no candidate 4"
    assert (reward, terminated, truncated) == (0, False, False)
    for _ in range(3):
        _, reward, terminated, *_ = env.step(SIDES.index("go right"))
    assert terminated
    assert reward == 1


@pytest.mark.parametrize("mode", ["auto", "discrete"])
@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version:UserWarning")
@pytest.mark.filterwarnings("ignore:.*alternative render modes:UserWarning")
def test_gymnasiums_own_check_passes(mode: str) -> None:
    check_env(planner(DotEnv(render_mode="rgb_array"), mode=mode, num_samples=2))


def test_same_seed_same_decisions() -> None:
    first = run(planner(num_samples=2), seed=3)
    second = run(planner(num_samples=2), seed=3)
    other = run(planner(num_samples=2), seed=4)
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        assert one[4]["foresight"] == two[4]["foresight"]
    # Another seed, another noise in what is imagined.
    assert first[1][4]["foresight"]["decision"] != other[1][4]["foresight"]["decision"]


def test_wrappers_compose(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    from gymnasium.wrappers import RecordVideo

    env = planner(DotEnv("stay", render_mode="rgb_array"), propose=["stay", "go left"])
    limited = RecordEpisodeStatistics(TimeLimit(env, max_episode_steps=7))
    recorded = RecordVideo(limited, str(tmp_path), episode_trigger=lambda _: True)
    rows = run(recorded, seed=0)
    recorded.close()
    assert len(rows) == 8
    assert rows[-1][3]
    assert rows[-1][4]["episode"]["l"] == 7
    assert list(tmp_path.glob("*.mp4"))


def test_render_shows_scene_and_strips() -> None:
    env = planner(DotEnv(render_mode="rgb_array"))
    env.reset(seed=0)
    before = env.render()
    env.step(0)
    after = env.render()
    assert before.shape == after.shape, "a video needs one size"
    assert before.dtype == after.dtype == np.uint8
    assert (before != after).any()
    assert env.render().shape[1] > 3 * env.render().shape[0] / 2
    assert planner(DotEnv()).render() is None


def test_it_abstains_below_the_threshold() -> None:
    env = planner(DotEnv("go right"), propose=["go left", "stay"], threshold=0.7)
    obs, _ = env.reset(seed=0)
    again, reward, terminated, truncated, info = env.step(0)
    assert (reward, terminated, truncated) == (0, False, True)
    assert np.array_equal(obs["image_0"], again["image_0"])
    assert info["foresight"]["abstained"]
    assert info["foresight"]["decision"].plan is None
    assert "below the threshold" in info["foresight"]["reason"]


def test_goal_and_plans_may_change_by_episode() -> None:
    env = planner(DotEnv("stay"), goal=Goal("go up"), max_plans=1)
    assert run(env, seed=0)[-1][4]["foresight"]["plan"] == "go up"
    rows = run(env, options={"goal": "go left", "plans": ["stay", "go left"]})
    assert rows[-1][4]["foresight"]["plan"] == "go left"
    assert rows[-1][3], "one plan was carried out"
    assert len(rows) == 6
    assert len(rows[-1][4]["foresight"]["decision"].plans) == 2


class Picky(PolicyExecutor):
    """Can't go up, finds out that it can't go left, and counts what it begins."""

    starts = 0

    def obstacle(self, env: Any, instruction: str) -> str | None:
        return "there is a wall" if instruction == "go up" else None

    def start(self, env: Any, instruction: str) -> None:
        if instruction == "go left":
            raise PlanError("there is another wall")
        self.starts += 1
        super().start(env, instruction)


def test_what_a_proposer_says_is_left_out_where_it_can_not_be_done() -> None:
    executor = Picky(policy, max_steps=3)
    env = planner(DotEnv("go right"), propose=lambda situation: SIDES, executor=executor)
    env.reset(seed=0)
    *_, info = env.step(0)
    assert [str(plan) for plan in info["foresight"]["decision"].plans] == [
        *("go left", "go right", "go down")
    ]
    env = planner(DotEnv("go right"), propose=SIDES, executor=executor)
    env.reset(seed=0)
    with pytest.raises(PlanError, match="'go up' can't be begun: there is a wall"):
        env.step(0)


def test_without_candidates_it_abstains_or_goes_on() -> None:
    env = planner(DotEnv("go right"), propose=lambda situation: ())
    env.reset(seed=0)
    *_, truncated, info = env.step(0)
    assert truncated
    assert info["foresight"]["abstained"]
    assert "nothing was proposed" in info["foresight"]["reason"]
    said = iter([["go right"], [], []])
    env = planner(DotEnv("go right"), propose=lambda situation: next(said), replan_every=2)
    env.reset(seed=0)
    plans = [env.step(0)[4]["foresight"]["plan"] for _ in range(5)]
    assert plans == ["go right"] * 5


def test_a_better_plan_that_can_not_be_begun_leaves_the_one_in_hand() -> None:
    executor = Picky(policy, max_steps=9)
    said = iter([["go right"], ["go left", "go right"]])
    env = planner(
        DotEnv("go left"),
        propose=lambda situation: next(said),
        executor=executor,
        replan_every=2,
    )
    env.reset(seed=0)
    for _ in range(3):
        *_, info = env.step(0)
    assert executor.starts == 1, "it went on"
    told = info["foresight"]
    assert told["plan"] == str(told["decision"].plan) == "go right"
    assert "'go left' could not be begun: there is another wall" in told["reason"]
    assert "took 'go right'" in told["decision"].reason


def test_a_candidate_that_can_not_be_begun_leaves_the_plan_in_hand() -> None:
    executor = Picky(policy, max_steps=9)
    plans = ["go left", "go right"]
    env = planner(
        DotEnv("go right"), propose=plans, executor=executor, replan_every=2, mode="discrete"
    )
    env.reset(seed=0)
    env.step(1)
    *_, info = env.step(0)
    assert "another wall" in info["foresight"]["failure"]
    env.step(1)
    assert executor.starts == 1, "it went on"


def test_what_was_done_is_told_though_the_next_decision_fails() -> None:
    calls = iter([False, True])

    def failing(foresights: Any, goal: Any) -> Any:
        if next(calls):
            raise ScoreError("the server is gone")
        return SideScorer()(foresights, goal)

    env = planner(DotEnv("go right"), mode="discrete", scorer=failing)
    env.reset(seed=0)
    x = env.unwrapped.place[0]
    obs, reward, terminated, truncated, info = env.step(SIDES.index("go right"))
    assert obs["state"][0] == x + 10
    assert (reward, terminated, truncated) == (0, False, False)
    assert not info["action_mask"].any()
    assert "the server is gone" in info["foresight"]["reason"]
    with pytest.raises(ScoreError, match="the server is gone"):
        env.step(0)


def test_time_budget_saves_samples() -> None:
    slow = SlowPredictor()
    env = planner(DotEnv("go right"), predictor=slow, num_samples=4, budget=0.4)
    env.reset(seed=0)
    *_, info = env.step(0)
    decision = info["foresight"]["decision"]
    # 4 plans of 4 samples would take 0.8 s.
    assert decision.sample_scores.shape in ((4, 1), (4, 2))


class SlowPredictor(DotPredictor):
    def predict_many(self, requests: Any, *, num_samples: int = 1, **options: Any) -> Any:
        import time

        time.sleep(0.05 * len(requests) * num_samples)
        return super().predict_many(requests, num_samples=num_samples, **options)


class Blind(DotEnv):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)


class Timeless(DotEnv):
    metadata = {"render_modes": []}  # noqa: RUF012


def spoilt(foresights: Any, goal: Any) -> Any:
    scores = SideScorer()(foresights, goal)
    scores[1] = np.nan
    return scores


@pytest.mark.parametrize(
    ("env", "changes", "error", "message"),
    [
        (Blind, {}, ObservationError, "AddRenderObservation"),
        (Timeless, {}, FrameRateError, "give fps="),
        (DotEnv, {"fps": 7}, FrameRateError, "whole multiple"),
        (DotEnv, {"mode": "both"}, ConfigError, "'auto' or 'discrete'"),
        (DotEnv, {"propose": []}, PlanError, "at least one"),
        (DotEnv, {"propose": ["stay", "Stay "]}, PlanError, "same as candidate 0"),
        (DotEnv, {"propose": ["stay", " "]}, PlanError, "expected text"),
        (DotEnv, {"propose": None}, ConfigError, "no propose of its own"),
        (DotEnv, {"executor": None}, ConfigError, "no executor of its own"),
        (DotEnv, {"surprise": 0}, ConfigError, "surprise=0"),
        (DotEnv, {"replan_every": 0}, ConfigError, "replan_every=0"),
        (DotEnv, {"threshold": 1.5}, ConfigError, "threshold=1.5"),
        (DotEnv, {"budget": 0}, ConfigError, "seconds=0"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    env: Any, changes: dict[str, Any], error: type[AIDRobotError], message: str
) -> None:
    with pytest.raises(error, match=message):
        planner(env(), **changes)


def test_mistakes_of_an_episode_are_told() -> None:
    env = planner(scorer=spoilt)
    env.reset(seed=0)
    with pytest.raises(ScoreError, match="'spoilt' gave nan for sample 0 of 'go right'"):
        env.step(0)
    env = planner(propose=[*WAYS, "go left -> go up"])
    env.reset(seed=0)
    with pytest.raises(PlanError, match="6 candidates"):
        env.step(0)
    env = planner(DotEnv("stay"), goal=draw(3, 3))
    with pytest.raises(PlanError, match=r"of type ndarray.*Goal\(image=frame\)"):
        env.reset(seed=0)
    env = planner(DotEnv(""))
    env.reset(seed=0)
    with pytest.raises(PlanError, match="no goal"):
        env.step(0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        planner().step(0)


def test_departure_allows_for_small_differences_in_time() -> None:
    clip = np.stack([draw(10 + 2 * t, 16) for t in range(3)])[None]
    assert departure(draw(14, 16), clip) == 0
    assert departure(draw(14, 4), clip) > 0.1
