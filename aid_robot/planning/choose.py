"""Which plan to carry out: imagine the candidates, score them, choose one, or none.

decision = decide(predictor, frame, ["lift the can", "open the drawer"], goal, scorer)
decision.plan, decision.scores, decision.reason
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aid_robot.clip import Foresight
from aid_robot.errors import ConfigError
from aid_robot.options import check_count, draw_seed
from aid_robot.planning.calibration import Calibration
from aid_robot.planning.decision import Decision
from aid_robot.planning.goals import Goal
from aid_robot.planning.imagine import Imagination
from aid_robot.planning.pace import Pace
from aid_robot.planning.plans import Plan, PlanLike, check_plans
from aid_robot.planning.scorers.scorer import Scorer, check_scores, name_of
from aid_robot.predictor import Predictor


@dataclass(frozen=True)
class Beam:
    """Compose longer plans of the candidates, keeping the best few at each level."""

    # Plans that are gone on with.
    width: int
    # Candidates that a plan is composed of, at most.
    depth: int
    # The candidates that may follow a plan; None lets all follow that it has not got.
    following: Callable[[Plan], Sequence[PlanLike]] | None = None

    def __post_init__(self) -> None:
        """Check the range."""
        if self.width < 1 or self.depth < 1:
            raise ConfigError(
                f"the beam has width={self.width} and depth={self.depth}; expected at least 1"
            )


@dataclass(frozen=True)
class Choosing:
    """How a choice is made of scores."""

    # Futures that are imagined of each plan.
    num_samples: int = 1
    # A plan's score is the mean over its samples less this many standard deviations.
    penalty: float = 0.5
    # Below it no plan is chosen; None takes that of the scorer's calibration, where it has one, and
    # 0 always chooses.
    threshold: float | None = None
    beam: Beam | None = None
    # Clips of each instruction, one after the other, for skills that take longer than one.
    clips_per_step: int = 1

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_count("num_samples", self.num_samples)
        if not self.penalty >= 0:
            raise ConfigError(f"penalty={self.penalty} must be 0 or more")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold} must be from 0 to 1, as scores are")
        check_count("clips_per_step", self.clips_per_step)


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be decided: from what is seen, which plan leads to the goal?"""

    obs: Any
    plans: Sequence[PlanLike]
    goal: Goal
    # None draws one.
    seed: int | None = None


def decide(
    predictor: Predictor,
    obs: Any,
    plans: Sequence[PlanLike],
    goal: Goal | None,
    scorer: Scorer,
    *,
    num_samples: int = 1,
    penalty: float = 0.5,
    threshold: float | None = None,
    beam: Beam | None = None,
    clips_per_step: int = 1,
    seed: int | None = None,
    pace: Pace | None = None,
    **options: Any,
) -> Decision:
    """Choose the plan whose imagined future comes nearest to the goal.

    Args:
        predictor: Who imagines.
        obs: An observation of any layout that `to_frames` knows.
        plans: Candidates, see `check_plans`.
        goal: What the scorer compares with; None for one that needs none.
        scorer: Gives each sample of each foresight a number in [0, 1].
        num_samples: Futures that are imagined of each plan.
        penalty: A plan's score is the mean over its samples less this many standard deviations.
        threshold: Below it no plan is chosen; None takes that of the scorer's calibration, where it
            has one, and 0 always chooses.
        beam: Composes longer plans of the candidates.
        clips_per_step: Clips of each instruction, one after the other, for skills that take longer
            than one.
        seed: Same seed, same decision, as long as there is no `pace`.
        pace: Keeps the decision within a time, with fewer samples, then fewer steps.
        options: Of the prediction, see `PredictOptions`.

    Raises:
        PlanError: There are no candidates, or two are the same.
        ScoreError: The scorer gave what is no score.
    """
    choosing = Choosing(num_samples, penalty, threshold, beam, clips_per_step)
    problem = Problem(obs, plans, Goal() if goal is None else goal, seed)
    return decide_many(predictor, [problem], scorer, choosing=choosing, pace=pace, **options)[0]


def decide_many(
    predictor: Predictor,
    problems: Sequence[Problem],
    scorer: Scorer,
    *,
    choosing: Choosing | None = None,
    pace: Pace | None = None,
    started: float | None = None,
    **options: Any,
) -> list[Decision]:
    """Decide several problems, all that they ask to be imagined in one batch; see `decide`.

    The timings of each decision are those of the whole call, and of what came before it where
    `started` (by `time.perf_counter`) says since when its time counts.
    """
    if not problems:
        return []
    started = time.perf_counter() if started is None else started
    choosing = choosing or Choosing()
    if choosing.beam is not None and getattr(scorer, "is_relative", False):
        raise ConfigError(
            f"the scorer '{name_of(scorer)}' compares the plans of one level with each other, and "
            "a beam has several: use another scorer, or give longer plans instead of a beam"
        )
    candidates = [list(check_plans(problem.plans)) for problem in problems]
    seeds = [draw_seed(problem.seed) for problem in problems]
    samples = choosing.num_samples
    if pace is not None:
        first = problems[0]
        pace.probe(predictor, first.obs, candidates[0][0], first.goal, scorer, samples, options)
        rows = _count_rows(candidates, choosing.beam) * choosing.clips_per_step
        samples, steps = pace.fit(rows, samples, options.get("steps"), started)
        options = options if steps is None else {**options, "steps": steps}
    imagination = Imagination(
        predictor,
        [(problem.obs, seed) for problem, seed in zip(problems, seeds, strict=True)],
        samples,
        choosing.clips_per_step,
        **options,
    )
    searches = [
        _Search(number, problem.goal, plans, choosing.beam)
        for number, (problem, plans) in enumerate(zip(problems, candidates, strict=True))
    ]
    seconds = {"imagine": 0.0, "score": 0.0}
    while any(search.frontier for search in searches):
        before = time.perf_counter()
        imagination.add((s.number, plan.steps) for s in searches for plan in s.frontier)
        between = time.perf_counter()
        for search in searches:
            search.advance(imagination, scorer, choosing)
        seconds["imagine"] += between - before
        seconds["score"] += time.perf_counter() - between
    if pace is not None:
        pace.learn(imagination, seconds["imagine"], seconds["score"])
    timings = {
        **imagination.timings,
        **seconds,
        "total": time.perf_counter() - started,
    }
    return [
        search.decision(choosing, scorer, seed, timings)
        for search, seed in zip(searches, seeds, strict=True)
    ]


class _Search:
    """The plans of one problem, level by level; without a beam there is one level."""

    def __init__(self, number: int, goal: Goal, candidates: list[Plan], beam: Beam | None) -> None:
        self.number, self.goal, self.candidates, self.beam = number, goal, candidates, beam
        # Plans that are to be imagined next.
        self.frontier: list[Plan] = candidates
        self.level = 1
        self.plans: list[Plan] = []
        self.foresights: list[Foresight] = []
        self.sample_scores: list[NDArray[np.float64]] = []

    def advance(self, imagination: Imagination, scorer: Scorer, choosing: Choosing) -> None:
        """Score the plans of the frontier, and find those to be imagined next."""
        if not self.frontier:
            return
        clips = [imagination.foresight(self.number, plan.steps) for plan in self.frontier]
        scores = check_scores(name_of(scorer), scorer(clips, self.goal), clips)
        self.plans += self.frontier
        self.foresights += clips
        self.sample_scores += list(scores)
        self.frontier, scored = [], self.frontier
        if self.beam is None or self.level == self.beam.depth:
            return
        self.level += 1
        order = np.argsort(-aggregate(scores, choosing.penalty), kind="stable")
        known = {str(plan).casefold() for plan in self.plans}
        for number in order[: self.beam.width]:
            for following in self._following(scored[number]):
                longer = scored[number].then(following)
                if str(longer).casefold() not in known:
                    known.add(str(longer).casefold())
                    self.frontier.append(longer)

    def _following(self, plan: Plan) -> list[Plan]:
        if self.beam is not None and self.beam.following is not None:
            return [Plan.of(following) for following in self.beam.following(plan)]
        return [other for other in self.candidates if not set(other.steps) & set(plan.steps)]

    def decision(
        self, choosing: Choosing, scorer: Scorer, seed: int, timings: Mapping[str, float]
    ) -> Decision:
        """Choose among all plans that were imagined."""
        sample_scores = np.stack(self.sample_scores)
        scores, threshold = aggregate(sample_scores, choosing.penalty), choosing.threshold
        calibration: Calibration | None = getattr(scorer, "calibration", None)
        if calibration is not None:
            scores = calibration(scores)
            threshold = calibration.threshold if threshold is None else threshold
        index, reason = choose(self.plans, scores, threshold)
        return Decision(
            plans=tuple(self.plans),
            index=index,
            scores=scores,
            sample_scores=sample_scores,
            foresights=tuple(self.foresights),
            goal=self.goal,
            reason=reason,
            seed=seed,
            scorer=name_of(scorer),
            threshold=threshold,
            penalty=choosing.penalty,
            timings=timings,
        )


def aggregate(sample_scores: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    """Make one score a plan of (plans, samples): the mean less a penalty on the spread."""
    penalised = sample_scores.mean(axis=1) - penalty * sample_scores.std(axis=1)
    return np.asarray(np.clip(penalised, 0.0, 1.0))


def choose(
    plans: Sequence[Plan], scores: NDArray[np.float64], threshold: float | None
) -> tuple[int | None, str]:
    """Return the best plan's number, or None where it is below the threshold, and why."""
    order = np.argsort(-scores, kind="stable")
    best = int(order[0])
    if threshold is not None and scores[best] < threshold:
        return None, (
            f"abstained: the best of {len(plans)}, '{plans[best]}', has {scores[best]:.3f}, below "
            f"the threshold {threshold:.3f}"
        )
    if len(plans) == 1:
        return best, f"chose the only candidate, '{plans[best]}', with {scores[best]:.3f}"
    second = int(order[1])
    return best, (
        f"chose '{plans[best]}' with {scores[best]:.3f}, the best of {len(plans)}; the next, "
        f"'{plans[second]}', has {scores[second]:.3f}"
    )


def _count_rows(candidates: Sequence[Sequence[Plan]], beam: Beam | None) -> int:
    """Count the clips that one sample takes, at most."""
    prefixes = sum(
        len({plan.steps[: n + 1] for plan in plans for n in range(len(plan))})
        for plans in candidates
    )
    if beam is None:
        return prefixes
    longest = sum(len(plan) for plans in candidates for plan in plans)
    return prefixes + (beam.depth - 1) * beam.width * longest
