"""What every scorer is: a judge of imagined futures, from 0 (bad) to 1 (good).

scorer = Weighted({SuccessScorer.load(): 1.0, Agreement(): 0.3})
scores = scorer(foresights, Goal(text="the carrot is on the plate"))  # (plans, samples)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from aid_robot.clip import Foresight
from aid_robot.errors import ConfigError, ScoreError
from aid_robot.observation import resize_frames
from aid_robot.planning.goals import Goal

FloatArray: TypeAlias = NDArray[np.float64]
Frames: TypeAlias = NDArray[np.uint8]

# A statement has one of these; so "the can is in the pot and the drawer is open" is two.
_STATES = re.compile(r"\b(?:is|are|has|have|lies|lie|rests|stands|holds|was)\b")


@runtime_checkable
class Scorer(Protocol):
    """A judge of imagined futures."""

    @property
    def name(self) -> str:
        """What tables and timings call it."""

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        """Return scores (plans, samples) in [0, 1], higher is better.

        Args:
            foresights: One a plan, of the same number of samples; the plans may differ in length.
            goal: What is wanted.

        Raises:
            ScoreError: The goal lacks what this scorer goes by, or a score is no number.
        """


@dataclass(frozen=True)
class Custom:
    """Make a scorer of any function of a foresight and a goal.

    It returns a score a sample, (samples,), or one for all; `is_cost` marks one where lower is
    better, of any size, which becomes 1 / (1 + cost).
    """

    function: Callable[[Foresight, Goal], Any]
    name: str = "custom"
    is_cost: bool = False

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        samples = count_samples(foresights)
        rows = []
        for foresight in foresights:
            found = np.asarray(self.function(foresight, goal), np.float64)
            if found.shape not in ((), (1,), (samples,)):
                raise ScoreError(
                    f"the scorer '{self.name}' gave shape {found.shape} for {foresight!r}; "
                    f"expected a number, or ({samples},), one a sample"
                )
            rows.append(np.broadcast_to(found, (samples,)))
        scores = np.stack(rows)
        if self.is_cost:
            if (scores < 0).any():
                raise ScoreError(
                    f"the scorer '{self.name}' gave the cost {scores.min():g}; expected 0 or more"
                )
            scores = 1 / (1 + scores)
        return check_scores(self.name, scores, foresights)


class Weighted:
    """Mix scorers by the weighted mean of their scores."""

    def __init__(self, scorers: Mapping[Scorer, float]) -> None:
        if not scorers:
            raise ConfigError("there are no scorers to mix; expected one at least, with its weight")
        for scorer, weight in scorers.items():
            if not (np.isfinite(weight) and weight > 0):
                raise ConfigError(
                    f"the scorer '{name_of(scorer)}' has weight {weight}; expected a positive "
                    "number"
                )
        total = sum(scorers.values())
        self.parts = {scorer: weight / total for scorer, weight in scorers.items()}

    @property
    def name(self) -> str:
        """The parts with their shares."""
        if len(self.parts) == 1:
            return name_of(next(iter(self.parts)))
        return " + ".join(f"{share:.2g} {name_of(part)}" for part, share in self.parts.items())

    @property
    def min_samples(self) -> int:
        """Samples of a plan that all parts can do with."""
        return max(getattr(part, "min_samples", 1) for part in self.parts)

    @property
    def is_relative(self) -> bool:
        """Whether some part's scores hold among the plans of one call alone."""
        return any(getattr(part, "is_relative", False) for part in self.parts)

    @property
    def calibration(self) -> Any:
        """The `Calibration` of a single part; a mix has none."""
        parts = list(self.parts)
        return getattr(parts[0], "calibration", None) if len(parts) == 1 else None

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        scores = [
            share * check_scores(name_of(part), part(foresights, goal), foresights)
            for part, share in self.parts.items()
        ]
        # Shares add up to 1 but for rounding.
        return np.asarray(np.clip(np.sum(scores, axis=0), 0.0, 1.0))


def name_of(scorer: Scorer) -> str:
    """Return what a scorer is called; a plain function has no `name`."""
    return str(getattr(scorer, "name", getattr(scorer, "__name__", type(scorer).__name__)))


def check_scores(name: str, scores: Any, foresights: Sequence[Foresight]) -> FloatArray:
    """Return scores as float64, or raise ScoreError where they are none."""
    found = np.asarray(scores, np.float64)
    expected = (len(foresights), count_samples(foresights))
    if found.shape != expected:
        raise ScoreError(
            f"the scorer '{name}' gave shape {found.shape}; expected {expected}, plans x samples"
        )
    wrong = ~((found >= 0) & (found <= 1))
    if wrong.any():
        plan, sample = np.argwhere(wrong)[0]
        raise ScoreError(
            f"the scorer '{name}' gave {found[plan, sample]} for sample {sample} of "
            f"'{foresights[plan].instruction}'; expected a number from 0 to 1"
        )
    return found


def count_samples(foresights: Sequence[Foresight]) -> int:
    """Return the samples of each foresight, which must have the same number."""
    counts = {foresight.num_samples for foresight in foresights}
    if len(counts) != 1:
        raise ScoreError(
            f"foresights have {sorted(counts) or 'no'} samples; expected one number of them for "
            "all plans, and one plan at least"
        )
    return counts.pop()


def observed(foresights: Sequence[Foresight]) -> Frames:
    """Return the last given frame of every sample, (plans, samples, H, W, 3)."""
    return np.stack([f.frames[:, f.num_conditioning_frames - 1] for f in foresights])


def final(foresights: Sequence[Foresight]) -> Frames:
    """Return the last frame of every sample, (plans, samples, H, W, 3)."""
    return np.stack([foresight.frames[:, -1] for foresight in foresights])


def goal_text(name: str, goal: Goal) -> str:
    """Return the goal's text; ScoreError where there is none."""
    if goal.text is None:
        raise ScoreError(f"the scorer '{name}' goes by a text, and the goal has none: give it one")
    return goal.text


def goal_image(name: str, goal: Goal, size: tuple[int, int]) -> Frames:
    """Return the goal's picture (H, W, 3) at a size (H, W); ScoreError where there is none."""
    if goal.image is None:
        raise ScoreError(
            f"the scorer '{name}' compares with a picture, and the goal has none: give one"
        )
    return np.asarray(resize_frames(goal.image[None], size)[0])


def goal_mask(goal: Goal, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return where the goal's picture counts, (H, W) at a size; None for everywhere."""
    if goal.mask is None:
        return None
    import cv2

    share = cv2.resize(goal.mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    # A small region keeps a pixel at least.
    return np.asarray(share >= min(0.5, float(share.max())))


def clauses(text: str) -> list[str]:
    """Split a goal of several statements: "the can is in the pot and the drawer is open".

    What is no row of statements stays whole, as "pick up the cup and put it on the plate".
    """
    parts = [part.strip() for part in re.split(r",?\s+and\s+|[;,]\s+", text) if part.strip()]
    return parts if all(_STATES.search(part) for part in parts) else [text]
