"""Judges of the imagination itself: whether its samples agree, and whether things stay in being."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from aid_robot.clip import Foresight
from aid_robot.errors import ScoreError
from aid_robot.evaluation.metrics.lpips import LPIPS
from aid_robot.evaluation.metrics.pic import PIC
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers.scorer import (
    FloatArray,
    Frames,
    check_scores,
    final,
    observed,
)

# Grey levels of difference that a codec or a VAE makes anywhere.
_NOISE = 6.0
# Saturation and brightness from which a pixel has a colour, and how many hues are told apart.
_COLORED, _BRIGHT, _HUES = 90, 60, 12
# Blur before colours are counted, so that a VAE's speckle has none [share of the width].
_BLUR = 1 / 40


class Agreement:
    """Score a sample by how near its last frame is to those of the other samples of its plan.

    Measured against how much changes at all: 1 is agreement, 1/2 a difference as large as the
    change itself. A high mean of the others' scores with low agreement is a gamble.
    """

    name = "agreement"
    # Of a plan, below which there is nothing to compare.
    min_samples = 2

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        ends, now = final(foresights).astype(np.float64), observed(foresights).astype(np.float64)
        samples = ends.shape[1]
        if samples < self.min_samples:
            raise ScoreError(
                "the scorer 'agreement' compares samples, and there is 1 a plan; expected 2 or "
                "more: raise num_samples, or leave it out"
            )
        others = (ends.sum(1, keepdims=True) - ends) / (samples - 1)
        apart, moved = _difference(ends, others), _difference(ends, now)
        mean_moved = moved.mean(1, keepdims=True)
        return check_scores(self.name, mean_moved / (mean_moved + apart), foresights)


class Plausibility:
    """Score whether coloured things neither appear nor vanish, and nothing jumps.

    A simple check of the first and the last frame: of each hue, how much of its area is there in
    both; times how even the change is over the clip. Things that go behind others or into a vessel
    cost a little as well, so give it a small weight.
    """

    name = "plausibility"

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        scores = [
            [
                _kept(clip[foresight.num_conditioning_frames - 1], clip[-1]) * _evenness(clip)
                for clip in foresight.frames
            ]
            for foresight in foresights
        ]
        return check_scores(self.name, scores, foresights)


class Conformity:
    """Score by DynamiCrafter's PIC how far the clip stays in the scene that was observed.

    1 - LPIPS to the last given frame, averaged over the predicted ones. A clip in which nothing
    happens scores best: it tells a picture that fell apart from one that holds, so give it a small
    weight.
    """

    name = "pic"

    def __init__(self, distance: LPIPS) -> None:
        self._metric = PIC(distance)

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        scores = []
        for foresight in foresights:
            given = foresight.num_conditioning_frames
            scores.append([
                float(self._metric(clip[given:], clip[given:], given=clip[:given]).mean())
                for clip in foresight.frames
            ])  # fmt: skip
        return check_scores(self.name, np.clip(scores, 0.0, 1.0), foresights)


def _difference(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the mean absolute difference over pixels, beyond noise, (plans, samples)."""
    apart = np.abs(first - second).mean(-1)
    return np.asarray(np.maximum(apart - _NOISE, 0).mean((-2, -1)) + 1e-3, np.float64)


def _kept(before: Frames, after: Frames) -> float:
    """Return the share of coloured area that both pictures have, hue by hue."""
    first, last = _hue_areas(before), _hue_areas(after)
    larger = np.maximum(first, last).sum()
    return float(np.minimum(first, last).sum() / larger) if larger > 0 else 1.0


def _hue_areas(frame: Frames) -> FloatArray:
    """Return the share of the picture that each hue covers, neighbours blended, (hues,)."""
    soft = cv2.GaussianBlur(frame, (0, 0), max(0.5, frame.shape[1] * _BLUR))
    hue, saturation, value = cv2.split(cv2.cvtColor(soft, cv2.COLOR_RGB2HSV))  # hue in [0, 180)
    colored = (saturation > _COLORED) & (value > _BRIGHT)
    areas = np.bincount(hue[colored] * _HUES // 180, minlength=_HUES) / hue.size
    return np.asarray(0.5 * areas + 0.25 * (np.roll(areas, 1) + np.roll(areas, -1)), np.float64)


def _evenness(clip: Frames) -> float:
    """Return 1 for change that is spread over a clip, less where most of it is in one step."""
    small = clip[:, ::2, ::2].astype(np.float32)
    steps = np.maximum(np.abs(np.diff(small, axis=0)).mean(-1) - _NOISE, 0).mean((1, 2))
    if len(steps) < 4 or steps.sum() < 1e-3:
        return 1.0
    # Half of all change in a single step is a cut.
    return float(np.clip(2 * (1 - steps.max() / steps.sum()), 0, 1))
