"""Decide in time: what imagination costs, and how much of it fits into a budget."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from aid_robot.errors import ConfigError
from aid_robot.planning.goals import Goal
from aid_robot.planning.imagine import Imagination
from aid_robot.planning.plans import Plan
from aid_robot.planning.scorers.scorer import Scorer
from aid_robot.predictor import Predictor

# Of the budget, kept for what a measurement does not foresee.
_RESERVE = 0.1
# The stage whose time grows with the denoising steps.
_BY_STEP = "denoise"


class Pace:
    """Keep decisions within a budget: fewer samples, then fewer steps, rather than late.

    Costs are learnt from each decision; before the first, one row of one step is tried, within
    the same budget. So the same seed need not give the same decision.

    Args:
        seconds: Budget of a decision, imagination and scores together.
        min_steps: Denoising steps that are never undercut, though the decision be late.
    """

    def __init__(self, seconds: float, *, min_steps: int = 1) -> None:
        if not seconds > 0 or min_steps < 1:
            raise ConfigError(
                f"a budget of seconds={seconds} and min_steps={min_steps} can't be kept; expected "
                "more than 0, and at least 1"
            )
        self.seconds, self.min_steps = seconds, min_steps
        # Rows -> seconds: of one denoising step, and of all that happens once.
        self._step: dict[int, float] = {}
        self._once: dict[int, float] = {}
        self._default_steps: int | None = None
        # Samples that the scorer can't do without.
        self._min_samples = 1

    def probe(
        self,
        predictor: Predictor,
        obs: Any,
        plan: Plan,
        goal: Goal,
        scorer: Scorer,
        num_samples: int,
        options: dict[str, Any],
    ) -> None:
        """Measure the least that can be imagined, unless something was measured before."""
        self._min_samples = min(num_samples, getattr(scorer, "min_samples", 1))
        if self._once:
            return
        try:
            config: Any = getattr(predictor, "config", None)
            self._default_steps = int(config.sampling.steps)
        except AttributeError:
            self._default_steps = None
        least = options if self._default_steps is None else {**options, "steps": 1}
        imagination = Imagination(predictor, [(obs, 0)], self._min_samples, **least)
        steps = plan.steps[:1]
        started = time.perf_counter()
        imagination.add([(0, steps)])
        between = time.perf_counter()
        scorer([imagination.foresight(0, steps)], goal)
        self.learn(imagination, between - started, time.perf_counter() - between)

    def learn(self, imagination: Imagination, imagine: float, score: float) -> None:
        """Remember what a decision took [s]."""
        rows = imagination.rows
        denoise = imagination.timings.get(_BY_STEP, 0.0) if imagination.steps else 0.0
        self._keep(self._step, rows, denoise / (imagination.steps or 1))
        self._keep(self._once, rows, imagine - denoise + score)

    def fit(
        self, rows: int, samples: int, steps: int | None, started: float
    ) -> tuple[int, int | None]:
        """Choose samples and steps so that `rows` clips a sample are done in time.

        Args:
            rows: Clips that one sample of all plans takes.
            samples: As many as are wished for.
            steps: As many as are wished for; None takes the model's own.
            started: `perf_counter` when the decision began.

        Returns:
            Samples, and steps, None where the predictor has none to save.
        """
        left = (self.seconds - (time.perf_counter() - started)) * (1 - _RESERVE)
        wished = steps or self._default_steps
        least = self._min_samples
        for count in range(samples, least - 1, -1):
            if self.estimate(rows * count, wished or 0) <= left:
                return count, wished
        if wished is None:
            return least, None
        fewer = range(wished, self.min_steps, -1)
        fitting = (n for n in fewer if self.estimate(rows * least, n) <= left)
        return least, next(fitting, min(self.min_steps, wished))

    def estimate(self, rows: int, steps: int) -> float:
        """Say how many seconds so many rows are likely to take."""
        return _between(self._once, rows) + steps * _between(self._step, rows)

    @staticmethod
    def _keep(costs: dict[int, float], rows: int, seconds: float) -> None:
        # The mean with what was known: one slow moment is not the rule.
        costs[rows] = (costs[rows] + seconds) / 2 if rows in costs else seconds


def _between(costs: dict[int, float], rows: int) -> float:
    """Interpolate; beyond what was measured the cost grows with the rows, below it stays."""
    known = sorted(costs)
    if rows > known[-1]:
        return costs[known[-1]] * rows / known[-1]
    return float(np.interp(rows, known, [costs[n] for n in known]))
