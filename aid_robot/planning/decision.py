"""Which plan was chosen, and all that it was chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aid_robot.clip import Foresight
from aid_robot.planning.goals import Goal
from aid_robot.planning.plans import Plan


@dataclass(frozen=True, eq=False)
class Decision:
    """Which plan was chosen, and all that it was chosen by."""

    # The candidates, those that were composed of them included.
    plans: tuple[Plan, ...]
    # Number of the chosen plan; None where the planner abstains.
    index: int | None
    # (plans,) aggregated, and (plans, samples), each in [0, 1], higher is better.
    scores: NDArray[np.float64]
    sample_scores: NDArray[np.float64]
    foresights: tuple[Foresight, ...]
    goal: Goal
    # A sentence for a person.
    reason: str
    seed: int = 0
    scorer: str = ""
    # Score below which no plan is chosen.
    threshold: float | None = None
    # Weight of the samples' spread in `scores`.
    penalty: float = 0.0
    # Seconds: the predictor's stages, "imagine", "score" and "total".
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def plan(self) -> Plan | None:
        """The chosen plan; None where the planner abstains."""
        return None if self.index is None else self.plans[self.index]

    @property
    def foresight(self) -> Foresight | None:
        """What was imagined of the chosen plan."""
        return None if self.index is None else self.foresights[self.index]

    @property
    def ranking(self) -> list[int]:
        """Numbers of the plans, best first."""
        return [int(number) for number in np.argsort(-self.scores, kind="stable")]

    @property
    def spreads(self) -> NDArray[np.float64]:
        """Standard deviation of each plan's scores over its samples, (plans,)."""
        return np.asarray(self.sample_scores.std(axis=1))

    def __eq__(self, other: object) -> bool:
        """Compare all but the times that it took."""
        if not isinstance(other, Decision):
            return NotImplemented
        same = (self.plans, self.index, self.reason, self.seed) == (
            *(other.plans, other.index, other.reason, other.seed),
        )
        return (
            same
            and np.array_equal(self.sample_scores, other.sample_scores)
            and all(
                np.array_equal(mine.frames, theirs.frames)
                for mine, theirs in zip(self.foresights, other.foresights, strict=True)
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def table(self) -> str:
        """Rank the plans in lines of text."""
        spreads, rows = self.spreads, []
        for rank, number in enumerate(self.ranking, start=1):
            mark = ">" if number == self.index else " "
            spread = f" ± {spreads[number]:.3f}" if self.sample_scores.shape[1] > 1 else ""
            rows.append(
                f"{mark} {rank:>2}  {self.scores[number]:.3f}{spread}  {self.plans[number]}"
            )
        return "\n".join([*rows, self.reason])

    def to_json(self) -> dict[str, Any]:
        """Return everything but the frames, as JSON-able values."""
        foresight = self.foresights[0]
        return {
            "goal": {"text": self.goal.text, "image": self.goal.image is not None},
            "plans": [
                {
                    "steps": list(plan.steps),
                    "score": float(self.scores[number]),
                    "sample_scores": self.sample_scores[number].tolist(),
                }
                for number, plan in enumerate(self.plans)
            ],
            "chosen": self.index,
            "reason": self.reason,
            "scorer": self.scorer,
            "threshold": self.threshold,
            "penalty": self.penalty,
            "seed": self.seed,
            "model_id": foresight.model_id,
            "settings": {k: v for k, v in foresight.settings.items() if k != "plan"},
            "timings": {stage: round(seconds, 4) for stage, seconds in self.timings.items()},
        }
