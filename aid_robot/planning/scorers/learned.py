"""Scores by the success classifier: of the end, and of the way to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Self

import numpy as np

from aid_robot.clip import Foresight
from aid_robot.errors import ScoreError
from aid_robot.planning.calibration import FILE, Calibration
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers.scorer import (
    FloatArray,
    Frames,
    check_scores,
    clauses,
    final,
    goal_image,
    observed,
)
from aid_robot.planning.success.model import SuccessModel


class SuccessScorer:
    """Score by a trained classifier the probability that the end is what was wanted.

    A goal's text may be a statement, several joined by "and", or an instruction; a picture is
    compared by what has come about, not by pixels. With both, both must hold. With a calibration,
    `decide` turns a plan's score into how often such plans have succeeded when carried out.
    """

    name = "success"

    def __init__(self, model: SuccessModel, calibration: Calibration | None = None) -> None:
        self.model, self.calibration = model, calibration

    @classmethod
    def load(cls, folder: str | os.PathLike[str] | None = None, device: str = "auto") -> Self:
        """Load a classifier with its calibration, if it has one; None takes the bundled one."""
        model = SuccessModel.load(folder, device)
        path = model.folder / FILE
        if not path.exists():
            return cls(model)
        calibration = Calibration.load(path)
        calibration.check_scorer(cls.name, str(path))
        return cls(model, calibration)

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        before, after = observed(foresights), final(foresights)
        shape = after.shape[:2]
        scores = self.judge(
            before.reshape(-1, *before.shape[2:]), after.reshape(-1, *after.shape[2:]), goal
        )
        return check_scores(self.name, scores.reshape(shape), foresights)

    def judge(self, before: Frames, after: Frames, goal: Goal) -> FloatArray:
        """Return probabilities (n,) for pictures before and after, both (n, H, W, 3)."""
        if goal.text is None and goal.image is None:
            raise ScoreError(
                "the scorer 'success' goes by a text or a picture, and the goal has neither"
            )
        scores = np.ones(len(after))
        if goal.text is not None:
            scores *= self.model.judge_texts(before, after, clauses(goal.text)).prod(1)
        if goal.image is not None:
            picture = goal_image(self.name, goal, (after.shape[1], after.shape[2]))
            scores *= self.model.judge_picture(before, after, picture)
        return scores


class Progress:
    """Score how soon the goal is reached, and whether it stays so: see `SuccessScorer`.

    The mean of the probabilities along the clip, in which later frames weigh more.
    """

    name = "progress"

    def __init__(self, success: SuccessScorer, frames: int = 4) -> None:
        if frames < 2:
            raise ScoreError(f"progress looks at {frames} frames of a clip; expected 2 or more")
        self.success, self.frames = success, frames

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        rows = []
        for foresight in foresights:
            given, clips = foresight.num_conditioning_frames, foresight.frames
            at = np.unique(np.linspace(given, len(foresight) - 1, self.frames).round().astype(int))
            after = clips[:, at]  # (samples, some, H, W, 3)
            before = np.repeat(clips[:, given - 1, None], len(at), axis=1)
            judged = self.success.judge(
                before.reshape(-1, *before.shape[2:]), after.reshape(-1, *after.shape[2:]), goal
            ).reshape(after.shape[:2])
            weights = np.arange(1, len(at) + 1, dtype=np.float64)
            rows.append(judged @ weights / weights.sum())
        return check_scores(self.name, np.stack(rows), foresights)
