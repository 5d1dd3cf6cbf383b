"""What the planners of one and of many environments share: propose, imagine, score, choose."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import gymnasium
import numpy as np

from aid_robot.envs.executors import Executor, PolicyExecutor
from aid_robot.envs.pilot import START, Pilot, Watch
from aid_robot.errors import ConfigError, FrameRateError, ObservationError, PlanError
from aid_robot.loop import steps_between_frames
from aid_robot.observation import to_frames
from aid_robot.planning.choose import Choosing, Problem, decide_many
from aid_robot.planning.decision import Decision
from aid_robot.planning.goals import Goal
from aid_robot.planning.pace import Pace
from aid_robot.planning.plans import Plan, PlanLike, check_plans
from aid_robot.planning.propose import Listed, Proposer, Situation, make_proposer
from aid_robot.planning.scorers.scorer import Scorer
from aid_robot.predictor import Predictor

# A text stands for a goal in words.
GoalLike: TypeAlias = Goal | str
ProposerLike: TypeAlias = Proposer | Sequence[PlanLike] | str
ExecutorLike: TypeAlias = Executor | Callable[[Any, str], Any]
# Whether the goal was reached, from the info of an environment's step.
Outcome: TypeAlias = Callable[[dict[str, Any]], bool | None]


class Decider:
    """Decide for one or more pilots at once, all that is imagined in one batch."""

    def __init__(
        self,
        predictor: Predictor,
        scorer: Scorer,
        *,
        num_candidates: int,
        choosing: Choosing,
        budget: float | None,
        options: dict[str, Any],
        strict: bool = True,
    ) -> None:
        if num_candidates < 1:
            raise ConfigError(f"num_candidates={num_candidates} must be at least 1")
        self.predictor, self.scorer = predictor, scorer
        self.num_candidates, self.choosing = num_candidates, choosing
        self.pace = None if budget is None else Pace(budget)
        self.options = options
        # Whether a list that a user wrote must be possible as a whole at an episode's start.
        self.strict = strict

    def decide(
        self,
        pilots: Sequence[Pilot],
        goals: Sequence[Goal],
        proposers: Sequence[Proposer],
        rngs: Sequence[np.random.Generator],
    ) -> list[tuple[Decision | None, str]]:
        """Return each pilot's decision and its reason; no decision where nothing can be done.

        Candidates that can't be begun are left out; PlanError, where `strict`, if one of a list is
        such at an episode's first decision.
        """
        started = time.perf_counter()
        answers: list[tuple[Decision | None, str]] = [(None, "")] * len(pilots)
        problems: dict[int, Problem] = {}
        parts = zip(pilots, goals, proposers, rngs, strict=True)
        for number, (pilot, goal, proposer, rng) in enumerate(parts):
            plans, reason = self._candidates(pilot, goal, proposer, rng)
            if not plans:
                answers[number] = (None, f"abstained: {reason}")
                continue
            seed = int(rng.integers(2**31))
            problems[number] = Problem(pilot.frames, plans, goal, seed)
        decisions = decide_many(
            self.predictor,
            list(problems.values()),
            self.scorer,
            choosing=self.choosing,
            pace=self.pace,
            started=started,
            **self.options,
        )
        for number, decision in zip(problems, decisions, strict=True):
            answers[number] = (decision, decision.reason)
        return answers

    def follow(self, pilot: Pilot, decision: Decision | None) -> str:
        """Let a pilot begin with the best plan that it can; returns what went wrong, if anything.

        Where it can't begin with any, or the decision is to abstain, its next decision stays due.
        """
        if decision is None or decision.index is None:
            return ""
        threshold = decision.threshold
        failures: list[str] = []
        under_way = pilot.instruction_under_way
        for index in decision.ranking:
            if threshold is not None and decision.scores[index] < threshold:
                break
            tried = decision
            if index != decision.index:
                reason = f"{'; '.join(failures)}; took '{decision.plans[index]}'"
                tried = replace(decision, index=index, reason=reason)
            if pilot.follow(tried, index, under_way):
                break
            if pilot.has_begun:
                under_way = None  # the executor has left it
            why = pilot.failure or "there was nothing to do"
            failures.append(f"'{decision.plans[index]}' could not be begun: {why}")
        return "; ".join(failures)

    def _candidates(
        self, pilot: Pilot, goal: Goal, proposer: Proposer, rng: np.random.Generator
    ) -> tuple[list[Plan], str]:
        limit = self.num_candidates
        situation = Situation(pilot.frames[-1], goal, limit, rng, pilot.env)
        given = proposer(situation)
        proposed = list(check_plans(given)) if given else []
        if len(proposed) > limit:
            raise PlanError(
                f"{len(proposed)} candidates were proposed and num_candidates is {limit}: raise it "
                "or propose fewer"
            )
        plans, reasons = pilot.possible(proposed)
        first = pilot.trigger == START and pilot.decision is None
        if reasons and first and self.strict and isinstance(proposer, Listed):
            raise PlanError(f"{reasons[0]}: leave it out, or propose by what the scene allows")
        under_way = pilot.remaining
        known = {str(plan).casefold() for plan in plans}
        if under_way is not None and str(under_way).casefold() not in known:
            # What is in hand may be gone on with.
            plans = [under_way, *plans][:limit]
        return plans, "; ".join(reasons) or "nothing was proposed"


def check_goal(goal: GoalLike | None, told: str | None) -> Goal:
    """Read a goal; None takes the text that the observation carries, `told`."""
    if isinstance(goal, Goal):
        return goal
    text: Any = told if goal is None else goal
    if text is None or (isinstance(text, str) and not text.strip()):
        raise PlanError(
            "there is no goal: the observation carries no instruction; give goal=, or "
            "reset(options={'goal': ...})"
        )
    if not isinstance(text, str):
        raise PlanError(
            f"the goal is of type {type(text).__name__}; expected a text or a Goal, such as "
            "Goal(image=frame)"
        )
    return Goal(text=text)


def make_watch(
    predictor: Predictor,
    space: gymnasium.Space[Any],
    metadata: dict[str, Any],
    *,
    fps: float | None,
    camera: str | None,
    replan_every: int | None,
    surprise: float | None,
) -> Watch:
    """Check that an environment shows images at a rate that the predictor can follow."""
    rate = fps or metadata.get("render_fps")
    if not rate:
        raise FrameRateError(
            "the environment doesn't say how many steps a second it makes "
            f"(metadata['render_fps']): give fps=, such as {predictor.fps:g}"
        )
    try:
        to_frames(space.sample(), camera=camera)
    except ObservationError as error:
        raise ObservationError(
            f"the environment's observations can't be imagined from: {error}. An environment "
            "without images gets them by gymnasium.wrappers.AddRenderObservation"
        ) from error
    stride = steps_between_frames(float(rate), predictor.fps)
    return Watch(
        *(predictor.num_conditioning_frames, stride, float(rate)),
        *(camera, replan_every, surprise),
    )


def make_parts(
    env: gymnasium.Env[Any, Any] | None,
    propose: ProposerLike | None,
    executor: ExecutorLike | None,
) -> tuple[Proposer, Executor]:
    """Build the proposer and the executor; the tabletop has its own for those left out."""
    if propose is None or executor is None:
        # Only where it was made is the simulator loaded.
        table = sys.modules.get("aid_robot.envs.tabletop.env")
        if env is None or table is None or not isinstance(env.unwrapped, table.TabletopEnv):
            missing = "propose" if propose is None else "executor"
            raise ConfigError(
                f"{env or 'this environment'} has no {missing} of its own: give propose= a list of "
                "plans or a proposer, and executor= a policy (observation, instruction) -> action"
            )
        from aid_robot.envs.tabletop.plans import SceneSkills, SkillExecutor

        propose = SceneSkills() if propose is None else propose
        executor = SkillExecutor() if executor is None else executor
    carrier = executor if isinstance(executor, Executor) else PolicyExecutor(executor)
    return make_proposer(propose), carrier


def describe(pilot: Pilot, reason: str, *, is_new: bool, abstained: bool) -> dict[str, Any]:
    """Return what `info["foresight"]` carries."""
    return {
        # Plans, scores, choice, imagined frames and timings; None before the first.
        "decision": pilot.decision,
        "reason": reason,
        # Whether it was made since the last step.
        "is_new": is_new,
        "abstained": abstained,
        "plan": "" if pilot.plan is None else str(pilot.plan),
        "instruction": pilot.instruction,
        # Steps since the decision, and how far what was seen is from what was imagined.
        "steps": pilot.steps,
        "departure": pilot.departure,
        # Why the next decision is due, blank while the plan goes on.
        "due": pilot.trigger or "",
        "failure": pilot.failure,
    }
