"""A predictor that answers with the best plan's future, for loops that know predictors only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aid_robot.clip import Foresight
from aid_robot.planning.choose import decide
from aid_robot.planning.goals import Goal
from aid_robot.planning.plans import PlanLike, check_plans
from aid_robot.planning.scorers.scorer import Scorer
from aid_robot.predictor import Predictor, Request


class BestPlan:
    """Rank plans at each prediction, as a `Predictor`.

    The foresight is that of the best plan, though it be below the threshold; its
    `settings["decision"]` is `Decision.to_json()`, where "chosen" is None if the planner abstains.

    Args:
        predictor: Who imagines.
        plans: Candidates, the same always; what an observation is told is left aside.
        goal: What the scorer compares with.
        scorer: Who judges.
        choosing: Penalty, threshold, beam and pace, see `planning.choose.decide`.
    """

    def __init__(
        self,
        predictor: Predictor,
        plans: Sequence[PlanLike],
        goal: Goal,
        scorer: Scorer,
        **choosing: Any,
    ) -> None:
        self.predictor, self.plans = predictor, check_plans(plans)
        self.goal, self.scorer, self.choosing = goal, scorer, choosing

    @property
    def fps(self) -> float:
        """Frames a second of the recorded world."""
        return self.predictor.fps

    @property
    def num_frames(self) -> int:
        """N, the frames of one step's foresight."""
        return self.predictor.num_frames

    @property
    def num_conditioning_frames(self) -> int:
        """K, the frames that an observation must give."""
        return self.predictor.num_conditioning_frames

    def predict(self, obs: Any, instruction: str | None = None, **options: Any) -> Foresight:
        """Decide, and return what was imagined of the best plan."""
        settings = {**self.choosing, **options}
        decision = decide(self.predictor, obs, self.plans, self.goal, self.scorer, **settings)
        best = decision.foresights[decision.ranking[0]]
        return replace(best, settings={**best.settings, "decision": decision.to_json()})

    def predict_many(
        self, requests: Sequence[Request | tuple[Any, str]], **options: Any
    ) -> list[Foresight]:
        """Decide for each observation."""
        read = [
            request if isinstance(request, Request) else Request(*request) for request in requests
        ]
        return [self.predict(request.obs, seed=request.seed, **options) for request in read]
