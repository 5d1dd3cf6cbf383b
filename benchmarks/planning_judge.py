"""What the planning benchmark says of choices: success, abstention, calibration, baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from planning_scenes import Scene

from aid_robot.clip import Foresight
from aid_robot.errors import AIDRobotError
from aid_robot.planning.calibration import (
    Calibration,
    auroc,
    auroc_interval,
    calibration_error,
    choose_threshold,
    rank_correlation,
    wilson,
)
from aid_robot.planning.choose import aggregate
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers.words import Words


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a scorer thought of the plans of a scene, and what came of them."""

    scene: Scene
    foresights: Sequence[Foresight]
    scores: NDArray[np.float64]  # (plans, samples)
    reached: NDArray[np.bool_]  # (plans,)


def compare_without_foresight(scenes: Sequence[Scene]) -> dict[str, Any]:
    matched = [s.facts.reaches_text[match_words(s)] for s in scenes]
    direct = [s.facts.direct for s in scenes]
    return {
        "scenes": len(scenes),
        "plans": float(np.mean([len(s.facts.plans) for s in scenes])),
        "random, text": float(np.mean([np.mean(s.facts.reaches_text) for s in scenes])),
        "random, image": float(np.mean([np.mean(s.facts.reaches_image) for s in scenes])),
        "words without foresight, text": float(np.mean(matched)),
        "words where the goal is a plan's own": _mean_where(matched, direct, True),
        "words where it is a consequence": _mean_where(matched, direct, False),
        "oracle": float(np.mean([any(s.facts.reaches_text) for s in scenes])),
        "actions, 95th percentile": float(
            np.percentile([n for s in scenes for n in s.facts.lengths], 95)
        ),
    }


def _mean_where(values: Sequence[bool], mask: Sequence[bool], wanted: bool) -> float | None:
    some = [value for value, is_so in zip(values, mask, strict=True) if is_so == wanted]
    return float(np.mean(some)) if some else None


def match_words(scene: Scene) -> int:
    """Choose the plan whose words are most like the goal's, without foresight."""
    plans = [
        Foresight(clip[None], 1, " -> ".join(plan), 1)  # it looks at none of the frames
        for clip, plan in zip(scene.futures, scene.facts.plans, strict=True)
    ]
    return int(np.argmax(Words()(plans, Goal(text=scene.facts.text))))


def judge(
    outcomes: Sequence[Outcome], fit: int, scorer: str
) -> tuple[dict[str, Any], Calibration | None]:
    """Summarise a scorer's choices: success, abstention, calibration."""
    fitted, counted = outcomes[:fit], outcomes[fit:]
    totals = [aggregate(o.scores, 0.5) for o in counted]
    chosen = [bool(o.reached[np.argmax(t)]) for o, t in zip(counted, totals, strict=True)]
    low, high = wilson(sum(chosen), len(chosen))
    plans, reached = np.concatenate(totals), np.concatenate([o.reached for o in counted])
    names = [str(o.scene.facts.number) for o in counted for _ in o.reached]
    best, reachable, places = _with_and_without(counted)
    figures: dict[str, Any] = {
        "success": float(np.mean(chosen)), "interval": [low, high], "scenes": len(counted),
        "random": float(np.mean([o.reached.mean() for o in counted])),
        "auroc_of_plans": auroc(plans, reached),
        "auroc_of_plans_interval": auroc_interval(plans, reached, names, draws=500),
        "rank_correlation": rank_correlation(plans, reached),
        "ece": calibration_error(plans, reached),
        "abstention_auroc": auroc(best, reachable),
        "abstention_auroc_interval": auroc_interval(best, reachable, places, draws=500),
    }  # fmt: skip
    calibration = None
    if fitted:
        scores = np.concatenate([aggregate(o.scores, 0.5) for o in fitted])
        came = np.concatenate([o.reached for o in fitted])
        seen, kinds, _ = _with_and_without(fitted)
        try:
            facts = {"scorer": scorer}
            calibration = Calibration.fit(scores, came, facts=facts)
            calibration = calibration.abstaining_below(choose_threshold(calibration(seen), kinds))
        except AIDRobotError as error:
            figures["calibrated"] = str(error)
        else:
            rates = calibration(best)
            figures["calibrated"] = {
                "ece": calibration_error(calibration(plans), reached),
                "threshold": calibration.threshold,
                "abstains_where_it_should": float(
                    (rates < calibration.threshold)[~reachable].mean()
                ),
                "acts_where_it_should": float((rates >= calibration.threshold)[reachable].mean()),
            }
    return figures, calibration


def _with_and_without(
    outcomes: Sequence[Outcome],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[str]]:
    """Best scores of each scene with a plan that reaches the goal, and with none.

    Both times of as many plans, or the best of more would tell them apart by itself.
    """
    best: list[float] = []
    reachable: list[bool] = []
    names: list[str] = []
    for outcome in outcomes:
        scores, reached = aggregate(outcome.scores, 0.5), outcome.reached
        wrong, right = np.flatnonzero(~reached), np.flatnonzero(reached)
        if len(wrong) < 2:
            continue
        number = outcome.scene.facts.number
        some = [*right, *np.random.default_rng(number).permutation(wrong)][: len(wrong)]
        for kept, kind in ((some, True), (wrong, False)):
            if kind and not len(right):
                continue
            best.append(float(scores[kept].max()))
            reachable.append(kind)
            names.append(str(number))
    return np.array(best), np.array(reachable), names
