"""The best plan is chosen by scores that are checked, in the time that there is."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aid_robot.errors import CheckpointError, ConfigError, PlanError, ScoreError
from aid_robot.planning.calibration import Calibration
from aid_robot.planning.choose import Beam, Problem, aggregate, choose, decide, decide_many
from aid_robot.planning.goals import Goal
from aid_robot.planning.pace import Pace
from aid_robot.planning.plans import Plan, check_plans
from aid_robot.planning.scorers.calibrated import Calibrated
from aid_robot.planning.scorers.scorer import Custom, Weighted
from tests.planning.dots import DotPredictor, SideScorer, draw

START = draw(16, 16)
PLANS = ["go left", "go right", "stay"]
UP = Goal("go up")


def test_the_best_is_chosen_and_explained() -> None:
    decision = decide(
        DotPredictor(), START, PLANS, Goal("go right"), SideScorer(), num_samples=2, seed=0
    )
    assert decision.index == 1
    assert decision.plan == Plan(("go right",))
    assert decision.foresight is decision.foresights[1]
    assert decision.ranking == [1, 2, 0]
    assert decision.scores == pytest.approx([0.1875, 0.8125, 0.5], abs=0.01)
    assert decision.sample_scores.shape == (3, 2)
    assert "chose 'go right' with 0.81" in decision.reason
    assert decision.table().splitlines()[0].startswith(">  1  0.81")
    assert {"imagine", "score", "total"} <= set(decision.timings)
    shown = json.loads(json.dumps(decision.to_json()))
    assert shown["chosen"] == 1
    assert shown["scorer"] == "side"
    assert [plan["steps"] for plan in shown["plans"]] == [[text] for text in PLANS]


def test_uncertain_plans_are_worth_less() -> None:
    scores = np.array([[0.6, 0.6], [0.2, 1.0], [0.0, 0.0]])
    assert aggregate(scores, 0.5) == pytest.approx([0.6, 0.4, 0.0])
    assert aggregate(scores, 0.0) == pytest.approx([0.6, 0.6, 0.0])
    assert aggregate(scores, 9.0).min() == 0


def test_it_abstains_below_the_threshold_only() -> None:
    plans = list(check_plans(PLANS))
    scores = np.array([0.2, 0.4, 0.1])
    assert choose(plans, scores, None)[0] == 1
    assert choose(plans, scores, 0.4)[0] == 1
    index, reason = choose(plans, scores, 0.41)
    assert index is None
    assert "'go right', has 0.400, below the threshold 0.410" in reason


def test_a_calibrated_scorer_brings_its_own_threshold() -> None:
    scorer = SideScorer()
    # Twice the score; "go right" has 0.81.
    scorer.calibration = Calibration("isotonic", (0.0, 0.5), (0.0, 1.0), threshold=0.95)

    def decided(scorer: Any, threshold: float | None = None) -> int | None:
        return decide(
            DotPredictor(), START, PLANS, Goal("go right"), scorer, threshold=threshold, seed=0
        ).index

    assert decided(scorer) == 1
    scorer.calibration = Calibration("isotonic", (0.0, 1.0), (0.0, 0.5), threshold=0.6)
    assert decided(scorer) is None
    assert decided(scorer, threshold=0) == 1
    assert decided(Weighted({scorer: 2.0})) is None
    assert decided(Weighted({scorer: 2.0, SideScorer(): 1.0})) == 1


def test_any_scorer_may_be_calibrated_by_a_file_of_its_own(tmp_path: Path) -> None:
    curve = Calibration("isotonic", (0.0, 1.0), (0.0, 0.5), facts={"scorer": "side"})
    curve.save(tmp_path / "side.json")
    scorer = Calibrated.load(SideScorer(), tmp_path / "side.json")
    start = (DotPredictor(), START, PLANS, Goal("go right"))
    plain, decision = decide(*start, SideScorer(), seed=0), decide(*start, scorer, seed=0)
    assert decision.scorer == "side"
    assert decision.scores == pytest.approx(curve(plain.scores))
    replace(curve, facts={}).save(tmp_path / "side.json")
    with pytest.raises(CheckpointError, match="unnamed scorer"):
        Calibrated.load(SideScorer(), tmp_path / "side.json")
    with pytest.raises(CheckpointError, match=r"scores by 'side'.*by 'function'"):
        Calibrated(Custom(lambda f, g: 1.0, "function"), curve)


def test_it_is_the_plan_s_score_that_is_calibrated_not_each_sample_s() -> None:
    scorer = CornerScorer()
    plain = decide(DotPredictor(), START, PLANS, UP, scorer, num_samples=2, penalty=0.5, seed=0)
    curve = Calibration("isotonic", (0.0, 0.4, 1.0), (0.0, 0.9, 1.0))
    scorer.calibration = curve
    decision = decide(DotPredictor(), START, PLANS, UP, scorer, num_samples=2, penalty=0.5, seed=0)
    assert decision.scores == pytest.approx(curve(plain.scores))
    assert decision.sample_scores == pytest.approx(plain.sample_scores)


def test_an_instruction_may_take_several_clips() -> None:
    predictor = DotPredictor()
    plans = ["go right", "go right -> go up"]
    one, two = (
        decide(predictor, START, plans, UP, SideScorer(), clips_per_step=n, seed=0) for n in (1, 2)
    )
    added = len(one.foresights[0]) - predictor.num_conditioning_frames
    assert len(two.foresights[0]) == len(one.foresights[0]) + added
    assert [str(plan) for plan in two.plans] == plans
    parts = two.foresights[1].settings["plan"]
    assert [part["instruction"] for part in parts] == ["go right", "go up"]
    assert parts[0]["stop"] == parts[1]["start"]
    assert parts[1]["stop"] == len(two.foresights[1])
    assert two.foresights[1].instruction == "go right -> go up"


def test_beam_finds_a_plan_that_no_candidate_is() -> None:
    predictor = DotPredictor()
    candidates = ["go left", "go up", "stay", "go down"]
    decision = decide(
        *(predictor, draw(26, 26), candidates, Goal("go up"), CornerScorer()),
        beam=Beam(width=2, depth=2),
        seed=0,
    )
    assert str(decision.plan) in ("go left -> go up", "go up -> go left")
    # Four steps, and then the two best of them with each of the three others.
    assert predictor.calls == [4, 6]
    assert len(decision.plans) == 10
    alone = decide(predictor, draw(26, 26), candidates, UP, CornerScorer(), seed=0)
    assert decision.scores.max() > alone.scores.max()


class CornerScorer(SideScorer):
    """How near the dot comes to the upper left."""

    def __call__(self, foresights: Any, goal: Goal) -> Any:
        sides = [
            SideScorer.__call__(self, foresights, Goal(f"go {side}")) for side in ("left", "up")
        ]
        return np.mean(sides, axis=0)


def test_beam_asks_what_may_follow() -> None:
    beam = Beam(3, 2, following=lambda plan: ["stay"] if plan.steps == ("go up",) else [])
    decision = decide(DotPredictor(), START, ["go up", "go left"], UP, SideScorer(), beam=beam)
    assert [str(plan) for plan in decision.plans] == ["go up", "go left", "go up -> stay"]


def test_problems_are_decided_together_as_alone() -> None:
    predictor = DotPredictor()
    problems = [
        Problem(START, PLANS, Goal("go right"), 1),
        Problem(draw(9, 9), ["go up", "go left -> go up"], Goal("go up"), 2),
    ]
    together = decide_many(predictor, problems, SideScorer())
    assert predictor.calls == [5, 1]
    for problem, decision in zip(problems, together, strict=True):
        alone = decide(
            DotPredictor(),
            problem.obs,
            problem.plans,
            problem.goal,
            SideScorer(),
            seed=problem.seed,
        )
        assert alone == decision
    assert together[0] != together[1]
    assert decide_many(predictor, [], SideScorer()) == []


def shaped(foresights: Any, goal: Goal) -> Any:
    return np.zeros(len(foresights))


def endless(foresights: Any, goal: Goal) -> Any:
    return np.full((len(foresights), 1), np.inf)


def costs(foresights: Any, goal: Goal) -> Any:
    return np.full((len(foresights), 1), -3.0)


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (shaped, r"'shaped' gave shape \(3,\); expected \(3, 1\)"),
        (endless, "'endless' gave inf for sample 0 of 'go left'"),
        (costs, "expected a number from 0 to 1"),
    ],
)
def test_what_is_no_score_is_refused(scorer: Any, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        decide(DotPredictor(), START, PLANS, None, scorer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, "threshold=-0.1"),
        ({"penalty": -1}, "penalty=-1"),
        ({"penalty": float("nan")}, "penalty=nan"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decide(DotPredictor(), START, PLANS, None, SideScorer(), **options)
    with pytest.raises(ConfigError, match="width=0"):
        Beam(0, 1)
    with pytest.raises(PlanError):
        decide(DotPredictor(), START, ["stay", "STAY"], None, SideScorer())


class Timed(DotPredictor):
    """Takes a time a row that grows with the steps, as a model does."""

    class config:
        class sampling:
            steps = 4

    def predict_many(self, requests: Any, *, num_samples: int = 1, **options: Any) -> Any:
        from dataclasses import replace

        steps = options.get("steps", 4)
        seconds = 0.01 * steps * len(requests) * num_samples
        time.sleep(seconds)
        clips = super().predict_many(requests, num_samples=num_samples)
        return [
            replace(clip, timings={"denoise": seconds}, settings={"steps": steps}) for clip in clips
        ]


@pytest.mark.parametrize(
    ("budget", "samples", "steps"),
    [(30.0, 6, 4), (0.6, (2, 3, 4), 4), (0.1, 1, (1, 2)), (0.001, 1, 1)],
)
def test_budget_saves_samples_then_steps(budget: float, samples: Any, steps: Any) -> None:
    predictor = Timed()
    decision = decide(
        *(predictor, START, PLANS, Goal("go left"), SideScorer()),
        num_samples=6,
        pace=Pace(budget),
    )
    found = decision.sample_scores.shape[1], decision.foresights[0].settings["steps"]
    assert found[0] in np.atleast_1d(samples)
    assert found[1] in np.atleast_1d(steps)
    assert predictor.calls[0] == 1, "one row is tried first"


def test_costs_are_interpolated_and_never_shrink() -> None:
    pace = Pace(1.0)
    pace._once, pace._step = {1: 0.1, 8: 0.8}, {1: 0.01, 8: 0.01}
    assert pace.estimate(4, 10) == pytest.approx(0.4 + 0.1)
    assert pace.estimate(16, 0) == pytest.approx(1.6)
    assert pace.estimate(1, 0) == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="seconds=0"):
        Pace(0)
