"""From scores to probabilities that hold: fitted on plans that were carried out.

calibration = Calibration.fit(scores, succeeded)
calibration(scores)  # how often plans with such scores have succeeded
calibration.save(folder / "calibration.json")
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aid_robot.errors import CheckpointError, ScoreError
from aid_robot.evaluation.intervals import number_clusters

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
Method: TypeAlias = Literal["isotonic", "platt"]

FILE = "calibration.json"
# Fewer outcomes of either kind than this say nothing about the shape of a curve.
_LEAST, _ISOTONIC_FROM = 5, 100
# Keeps the order of scores where the fitted curve is flat.
_TILT = 1e-6
_EDGE = 1e-6


@dataclass(frozen=True)
class Calibration:
    """A rising curve from scores to success rates, and the rate below which to abstain."""

    method: Method
    # Isotonic: the curve's corners. Platt: slope and offset of the score's logit.
    scores: tuple[float, ...]
    rates: tuple[float, ...]
    # Abstain where the best plan's rate is lower.
    threshold: float = 0.0
    # Where it comes from: number of outcomes, predictor, date, ...
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = np.array([*self.scores, *self.rates, self.threshold])
        sound = bool(np.isfinite(numbers).all()) and 0 <= self.threshold <= 1
        if self.method == "isotonic":
            sound = sound and len(self.scores) == len(self.rates) > 0
            sound = sound and bool((np.diff(self.scores) >= 0).all())
            sound = sound and bool((np.diff(self.rates) >= 0).all())
        else:
            sound = sound and self.method == "platt" and len(self.scores) == 1 == len(self.rates)
        if not sound:
            raise CheckpointError(
                f"a {self.method!r} calibration has scores {self.scores}, rates {self.rates} and "
                f"threshold {self.threshold}; expected rising corners of one length, or Platt's "
                "slope and offset, and a threshold from 0 to 1"
            )

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        succeeded: ArrayLike,
        *,
        method: Method | None = None,
        threshold: float = 0.0,
        facts: Mapping[str, Any] | None = None,
    ) -> Self:
        """Fit on scores (n,) in [0, 1] and what came of them (n,).

        Args:
            scores: Of plans that were carried out.
            succeeded: Whether the goal was reached.
            method: "isotonic", "platt", or None for isotonic from 100 outcomes on.
            threshold: Rate below which a planner shall abstain.
            facts: Kept with it; a file needs "scorer", the name of whose scores they are.

        Raises:
            ScoreError: Fewer than 5 successes or failures, or scores that are none.
        """
        found, outcomes = _checked(scores, succeeded)
        counts = int(outcomes.sum()), int((~outcomes).sum())
        if min(counts) < _LEAST:
            raise ScoreError(
                f"a calibration of {counts[0]} successes and {counts[1]} failures says nothing; "
                f"expected {_LEAST} of each at least: carry out more plans"
            )
        chosen = method or ("isotonic" if len(found) >= _ISOTONIC_FROM else "platt")
        corners = (_fit_isotonic if chosen == "isotonic" else _fit_platt)(found, outcomes)
        about = {"successes": counts[0], "failures": counts[1], **(facts or {})}
        return cls(chosen, *corners, threshold=threshold, facts=about)

    def __call__(self, scores: ArrayLike) -> FloatArray:
        """Return success rates of scores of any shape; the order of scores is kept."""
        found = np.asarray(scores, np.float64)
        if self.method == "platt":
            rates = 1 / (1 + np.exp(-(self.scores[0] * _logit(found) + self.rates[0])))
        else:
            rates = np.interp(found, self.scores, self.rates)
        return np.asarray((1 - _TILT) * rates + _TILT * found)

    def check_scorer(self, name: str, where: str) -> None:
        """Raise CheckpointError unless it was fitted on scores by this scorer."""
        fitted_on = self.facts.get("scorer")
        if fitted_on != name:
            whose = f"scores by '{fitted_on}'" if fitted_on else "scores of an unnamed scorer"
            raise CheckpointError(
                f"{where} was fitted on {whose}, and here are those by '{name}': remove it, or fit "
                f"it on decisions by '{name}' (facts={{'scorer': ...}})"
            )

    def abstaining_below(self, threshold: float) -> Self:
        """Return the same with another threshold."""
        return replace(self, threshold=threshold)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        partial = Path(path).with_suffix(".part")
        partial.write_text(text)
        partial.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote."""
        try:
            values = json.loads(Path(path).read_text())
            values["scores"] = tuple(float(value) for value in values["scores"])
            values["rates"] = tuple(float(value) for value in values["rates"])
            return cls(**values)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise CheckpointError(
                f"{path} is not a calibration ({error}): restore it, or fit it again"
            ) from error


# -- how good scores are ---------------------------------------------------------------------------


def auroc(scores: ArrayLike, succeeded: ArrayLike) -> float:
    """Return the chance that a success scores above a failure, ties half; NaN without either."""
    found, outcomes = _checked(scores, succeeded)
    positives = int(outcomes.sum())
    negatives = len(outcomes) - positives
    if not positives or not negatives:
        return math.nan
    above = ranks(found)[outcomes].sum() - positives * (positives - 1) / 2
    return float(above / (positives * negatives))


def auroc_interval(
    scores: ArrayLike,
    succeeded: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the AUROC, drawn over clusters such as scenes."""
    found, outcomes = _checked(scores, succeeded)
    numbers = number_clusters(
        clusters if clusters is not None else [str(n) for n in range(len(found))]
    )
    members = [np.flatnonzero(numbers == number) for number in range(int(numbers.max()) + 1)]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        drawn.append(auroc(found[rows], outcomes[rows]))
    known = [value for value in drawn if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def rank_correlation(scores: ArrayLike, values: ArrayLike) -> float:
    """Return Spearman's correlation of two rows (n,); NaN where one of them is constant."""
    first, second = (ranks(np.asarray(x, np.float64)) for x in (scores, values))
    if not np.ptp(first) or not np.ptp(second):
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


@dataclass(frozen=True)
class ReliabilityBin:
    """Plans of about one score."""

    score: float
    # How often they succeeded, with the 95 % interval by Wilson.
    rate: float
    low: float
    high: float
    count: int


def reliability(
    scores: ArrayLike, succeeded: ArrayLike, bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """Return the reliability curve over bins with equally many plans each, lowest first."""
    found, outcomes = _checked(scores, succeeded)
    order = np.argsort(found, kind="stable")
    curve = []
    for rows in np.array_split(order, min(bins, len(order))):
        rate, count = float(outcomes[rows].mean()), len(rows)
        low, high = wilson(int(outcomes[rows].sum()), count)
        curve.append(ReliabilityBin(float(found[rows].mean()), rate, low, high, count))
    return tuple(curve)


def calibration_error(scores: ArrayLike, succeeded: ArrayLike, bins: int = 10) -> float:
    """Return the expected calibration error: the mean distance of rates from scores, in bins."""
    curve = reliability(scores, succeeded, bins)
    total = sum(part.count for part in curve)
    return sum(part.count * abs(part.rate - part.score) for part in curve) / total


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate."""
    if not trials:
        return 0.0, 1.0
    rate, z = successes / trials, 1.96
    middle = rate + z * z / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def choose_threshold(best: ArrayLike, reachable: ArrayLike) -> float:
    """Choose the threshold that best tells decisions worth taking from those to abstain from.

    Args:
        best: Score of the best plan of each decision, (n,).
        reachable: Whether that decision had a plan that reaches the goal.

    Returns:
        Where the mean of both rates of being right is largest, halfway between two scores.
    """
    found, outcomes = _checked(best, reachable)
    if outcomes.all() or not outcomes.any():
        raise ScoreError(
            "a threshold needs decisions of both kinds: with a plan that reaches the goal, and "
            f"without; all {len(found)} are of one kind"
        )
    values = np.unique(found)
    cuts = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [min(1.0, values[-1] + _EDGE)]])
    right = [(found[outcomes] >= cut).mean() + (found[~outcomes] < cut).mean() for cut in cuts]
    return float(cuts[int(np.argmax(right))])


class _Block(NamedTuple):
    """Neighbouring scores of one rate."""

    low: float
    high: float
    rate: float
    weight: float


def _fit_isotonic(
    scores: FloatArray, outcomes: BoolArray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fit a rising step curve by pooling adjacent violators, as the ends of its steps."""
    blocks = [
        _Block(float(value), float(value), float(outcomes[same].mean()), float(same.sum()))
        for value in np.unique(scores)
        for same in [scores == value]
    ]
    # A block of few outcomes is never quite sure.
    softer = [b._replace(rate=(b.rate * b.weight + 0.5) / (b.weight + 1)) for b in _pool(blocks)]
    ends = [(end, b.rate) for b in _pool(softer) for end in dict.fromkeys((b.low, b.high))]
    return tuple(end for end, _ in ends), tuple(rate for _, rate in ends)


def _pool(blocks: Sequence[_Block]) -> list[_Block]:
    """Join neighbours until rates rise; their mean stays."""
    pooled: list[_Block] = []
    for block in blocks:
        pooled.append(block)
        while len(pooled) > 1 and pooled[-2].rate >= pooled[-1].rate:
            right, left = pooled.pop(), pooled.pop()
            weight = left.weight + right.weight
            rate = (left.rate * left.weight + right.rate * right.weight) / weight
            pooled.append(_Block(left.low, right.high, rate, weight))
    return pooled


def _fit_platt(
    scores: FloatArray, outcomes: BoolArray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fit slope and offset of the score's logit by Newton steps, on Platt's smoothed targets."""
    positives, negatives = outcomes.sum(), (~outcomes).sum()
    targets = np.where(outcomes, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([_logit(scores), np.ones(len(scores))], axis=1)
    weights = np.array([1.0, 0.0])
    ridge = np.diag([1e-2, 1e-6])
    for _ in range(50):
        rates = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        curvature = (design * (rates * (1 - rates))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, design.T @ (targets - rates) - ridge @ weights)
        weights = weights + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    # Scores that fall as success rises tell nothing that may be used.
    return (max(float(weights[0]), 1e-3),), (float(weights[1]),)


def _logit(scores: FloatArray) -> FloatArray:
    clipped = np.clip(scores, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(clipped / (1 - clipped)))


def ranks(values: FloatArray) -> FloatArray:
    """Return the ranks (n,) from 0, equal values sharing their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[places], np.float64)


def _checked(scores: ArrayLike, succeeded: ArrayLike) -> tuple[FloatArray, BoolArray]:
    found, outcomes = np.asarray(scores, np.float64), np.asarray(succeeded)
    if found.ndim != 1 or found.shape != outcomes.shape or not len(found):
        raise ScoreError(
            f"scores have shape {found.shape} and outcomes {outcomes.shape}; expected a row of "
            "each, of one length"
        )
    if not ((found >= 0) & (found <= 1)).all():
        wrong = found[~((found >= 0) & (found <= 1))][0]
        raise ScoreError(f"a score is {wrong}; expected numbers from 0 to 1")
    if outcomes.dtype != np.bool_ and not np.isin(outcomes, (0, 1)).all():
        raise ScoreError(f"an outcome is not True or False: {outcomes.tolist()[:5]}")
    return found, outcomes.astype(bool)
