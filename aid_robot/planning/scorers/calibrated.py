"""Any scorer with a calibration of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Self

from aid_robot.clip import Foresight
from aid_robot.planning.calibration import Calibration
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers.scorer import FloatArray, Scorer, name_of


class Calibrated:
    """Let `decide` turn a scorer's scores into how often such plans have succeeded.

    What it returns itself are the scorer's own scores: the calibration is of those of whole plans,
    after their samples were put together.

    Args:
        scorer: Whose scores the calibration was fitted on.
        calibration: Of it; CheckpointError where it says that it is another scorer's.
    """

    def __init__(self, scorer: Scorer, calibration: Calibration) -> None:
        if "scorer" in calibration.facts:
            calibration.check_scorer(name_of(scorer), "the calibration")
        self.scorer, self.calibration = scorer, calibration

    @classmethod
    def load(cls, scorer: Scorer, path: str | os.PathLike[str]) -> Self:
        """Read the calibration from what `aid-robot calibrate` has written."""
        calibration = Calibration.load(path)
        calibration.check_scorer(name_of(scorer), os.fspath(path))
        return cls(scorer, calibration)

    @property
    def name(self) -> str:
        """The scorer's own."""
        return name_of(self.scorer)

    @property
    def min_samples(self) -> int:
        """Samples of a plan that the scorer can do with."""
        return int(getattr(self.scorer, "min_samples", 1))

    @property
    def is_relative(self) -> bool:
        """Whether its scores hold among the plans of one call alone."""
        return bool(getattr(self.scorer, "is_relative", False))

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        return self.scorer(foresights, goal)
