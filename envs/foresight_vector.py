"""Many environments that look before they move: what all of them imagine is one batch.

envs = gymnasium.make_vec("aid_robot/Tabletop-v0", num_envs=4, vectorization_mode="sync")
envs = VectorForesightPlanner(envs, VideoForesight.from_pretrained(), scorer)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from aid_robot.envs.decider import (
    Decider,
    GoalLike,
    Outcome,
    ProposerLike,
    check_goal,
    describe,
    make_parts,
    make_watch,
)
from aid_robot.envs.decisions import DecisionRecorder, check_recordable
from aid_robot.envs.executors import Executor
from aid_robot.envs.pilot import Pilot
from aid_robot.errors import ConfigError, PlanError
from aid_robot.planning.choose import Beam, Choosing
from aid_robot.planning.propose import Proposer, make_proposer
from aid_robot.planning.scorers.scorer import Scorer
from aid_robot.predictor import Predictor

Flags = NDArray[np.bool_]
Step = tuple[Any, NDArray[np.float64], Flags, Flags, dict[str, Any]]


class VectorForesightPlanner(VectorWrapper[Any, Any, Any, Any, Any]):
    """`ForesightPlanner` with `mode="auto"` over a vector of environments.

    Those whose decisions are due in the same step decide together. One that abstains is truncated,
    and rests for the step until it is reset; candidates that can't be begun are left out.
    `info["foresight"]` holds arrays, one entry an environment. Environments reset themselves in the
    step after their end, or by the caller.

    Args:
        env: Of environments in this process (`SyncVectorEnv`), or in others where executors and
            proposers don't look into them.
        predictor, scorer: See `ForesightPlanner`, as for all arguments that are not named here.
        goal: Of all environments; a list has one for each.
        executor: Makes an executor for each environment; None takes the tabletop's skills.
        rest: Action of an environment that abstains; None is zero, within the space.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        predictor: Predictor,
        scorer: Scorer,
        *,
        goal: GoalLike | list[GoalLike] | None = None,
        propose: ProposerLike | None = None,
        executor: Callable[[], Executor] | None = None,
        num_candidates: int = 8,
        num_samples: int = 1,
        penalty: float = 0.5,
        threshold: float | None = None,
        beam: Beam | None = None,
        clips_per_step: int = 1,
        replan_every: int | None = None,
        surprise: float | None = None,
        budget: float | None = None,
        rest: Any = None,
        recorder: DecisionRecorder | None = None,
        outcome: Outcome | None = None,
        camera: str | None = None,
        fps: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        if mode == AutoresetMode.SAME_STEP:
            raise ConfigError(
                "the environments reset themselves in the step of their end, so that their last "
                "frames are not seen: make them with autoreset_mode 'NextStep' or 'Disabled'"
            )
        self._resets_itself = mode == AutoresetMode.NEXT_STEP
        watch = make_watch(
            *(predictor, env.single_observation_space, env.metadata),
            fps=fps,
            camera=camera,
            replan_every=replan_every,
            surprise=surprise,
        )
        goals = _goals_of(goal, env.num_envs)
        if recorder is not None:
            check_recordable(env.single_action_space)
        self.decider = Decider(
            predictor,
            scorer,
            num_candidates=num_candidates,
            choosing=Choosing(num_samples, penalty, threshold, beam, clips_per_step),
            budget=budget,
            options=options,
            strict=False,
        )
        self.recorder, self._outcome = recorder, outcome
        self.pilots: list[Pilot] = []
        self._proposers: list[Proposer] = []
        base = env.unwrapped
        for number in range(env.num_envs):
            inner = base.envs[number] if isinstance(base, SyncVectorEnv) else None
            made = None if executor is None else executor()
            proposer, carrier = make_parts(inner, propose, made)
            self.pilots.append(Pilot(inner, carrier, watch))
            self._proposers.append(proposer)
        self._goals = goals
        self._episode_goals, self._episode_proposers = list(goals), list(self._proposers)
        self.single_action_space = spaces.Discrete(1)
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self._rest = _neutral(env.single_action_space) if rest is None else rest
        self._rngs = [np.random.default_rng() for _ in range(env.num_envs)]
        self._reasons = [""] * env.num_envs
        # Those that ended in the step before, and of them those that don't know, as only the
        # planner ended them.
        self._ended = np.zeros(env.num_envs, bool)
        self._unaware = np.zeros(env.num_envs, bool)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in all environments, or in those of options["reset_mask"].

        Options "goal" (one, or a list with one for each environment) and "plans" are the
        planner's, for these episodes; others go to the environments.
        """
        given = dict(options or {})
        mask = np.array(given.get("reset_mask", np.ones(self.num_envs)), bool)
        goals = _goals_of(given.pop("goal"), self.num_envs) if "goal" in given else self._goals
        plans = given.pop("plans", None)
        proposer = None if plans is None else make_proposer(plans)
        if seed is not None:
            seeds = [seed + n for n in range(self.num_envs)] if isinstance(seed, int) else seed
            for number, own in enumerate(seeds):
                if own is not None:
                    self._rngs[number] = np.random.default_rng([own, 1])
        obs, info = self.env.reset(seed=seed, options=given or None)  # type: ignore[arg-type]
        self._begin(obs, mask)
        for number in map(int, np.flatnonzero(mask)):
            self._episode_goals[number] = goals[number]
            self._episode_proposers[number] = proposer or self._proposers[number]
        none = np.zeros(self.num_envs, bool)
        return obs, self._described(info, none, none)

    def step(self, actions: Any = None) -> Step:
        """Go on by a step in every environment; `actions` are all 0 and may be left out."""
        if self.pilots[0].obs is None:
            raise gymnasium.error.ResetNeeded("there is nothing to plan for yet: call reset first")
        resetting, unaware = self._ended.copy(), self._unaware.copy()
        due = self._due() & ~resetting
        self._decide(due)
        abstaining = self._due() & ~resetting
        resting = resetting | abstaining
        chosen = [
            self._rest if resting[number] else pilot.action
            for number, pilot in enumerate(self.pilots)
        ]
        space = self.env.single_action_space
        empty: Any = create_empty_array(space, self.num_envs)
        batch = concatenate(space, chosen, empty)
        obs, rewards, terminated, truncated, info = self.env.step(batch)
        if unaware.any():
            obs, fresh = self.env.reset(options={"reset_mask": unaware})
            info = _with_rows(info, fresh, unaware)
            terminated, truncated = terminated & ~unaware, truncated & ~unaware
        self._unaware = abstaining & ~(terminated | truncated)
        rewards = np.where(abstaining | unaware, 0.0, rewards)
        terminated, truncated = terminated & ~abstaining, truncated | abstaining
        self._ended = (terminated | truncated) & self._resets_itself
        self._begin(obs, resetting)
        for number, seen in enumerate(iterate(self.env.observation_space, obs)):
            if not resting[number]:
                self.pilots[number].after(seen)
                over = bool(terminated[number] or truncated[number])
                self._record(number, chosen[number], info, over, bool(terminated[number]))
        return obs, rewards, terminated, truncated, self._described(info, due, abstaining)

    def close(self, **kwargs: Any) -> None:
        """Keep what was recorded, and close the environments."""
        if self.recorder is not None:
            for pilot in self.pilots:
                self.recorder.end(pilot, None)
        super().close(**kwargs)

    def _due(self) -> Flags:
        return np.array([pilot.trigger is not None for pilot in self.pilots])

    def _begin(self, obs: Any, mask: Flags) -> None:
        """Begin an episode in some environments."""
        for number, seen in enumerate(iterate(self.env.observation_space, obs)):
            if not mask[number]:
                continue
            if self.recorder is not None:  # what was cut short from outside
                self.recorder.end(self.pilots[number], None)
            self.pilots[number].reset(seen)
            self._episode_goals[number] = self._goals[number]
            self._episode_proposers[number] = self._proposers[number]
            self._reasons[number] = ""
            self._ended[number] = self._unaware[number] = False

    def _decide(self, due: Flags) -> None:
        """Decide for some environments together, and begin with what was chosen."""
        numbers = [int(number) for number in np.flatnonzero(due)]
        pilots = [self.pilots[number] for number in numbers]
        answers = self.decider.decide(
            pilots,
            [
                check_goal(self._episode_goals[number], self.pilots[number].told)
                for number in numbers
            ],
            [self._episode_proposers[number] for number in numbers],
            [self._rngs[number] for number in numbers],
        )
        for number, pilot, (decision, reason) in zip(numbers, pilots, answers, strict=True):
            pilot.decision = decision
            self._reasons[number] = self.decider.follow(pilot, decision) or reason
            if pilot.trigger is None and self.recorder is not None:
                self.recorder.begin(pilot)

    def _record(
        self, number: int, action: Any, info: dict[str, Any], over: bool, terminated: bool
    ) -> None:
        if self.recorder is None:
            return
        pilot = self.pilots[number]
        self.recorder.add(pilot, action)
        if over or pilot.trigger is not None:
            own = _row(info, number)
            success = own.get("success") if self._episode_goals[number] is None else None
            if self._outcome is not None:
                success = self._outcome(own)
            self.recorder.end(pilot, success, terminated=terminated)

    def _described(self, info: dict[str, Any], is_new: Flags, abstained: Flags) -> dict[str, Any]:
        """Add what the planner knows: a dict of arrays, as vectors of environments have it."""
        rows = [
            describe(pilot, reason, is_new=bool(new), abstained=bool(gave_up))
            for pilot, reason, new, gave_up in zip(
                self.pilots, self._reasons, is_new, abstained, strict=True
            )
        ]
        found: dict[str, Any] = {}
        for key, first in rows[0].items():
            kind = type(first) if isinstance(first, bool | int | float) else object
            found[key] = np.empty(self.num_envs, kind)
            found[key][:] = [row[key] for row in rows]
        return {**info, "foresight": found, "_foresight": np.ones(self.num_envs, bool)}


def _goals_of(goal: GoalLike | list[GoalLike] | None, count: int) -> list[GoalLike | None]:
    goals: list[GoalLike | None] = [*goal] if isinstance(goal, list) else [goal] * count
    if len(goals) != count:
        raise PlanError(f"{len(goals)} goals were given for {count} environments")
    return goals


def _row(info: dict[str, Any], number: int) -> dict[str, Any]:
    """Return one environment's info out of that of a vector; what it has not is left out."""
    found: dict[str, Any] = {}
    for key, values in info.items():
        has = info.get(f"_{key}")
        if not key.startswith("_") and (has is None or has[number]):
            found[key] = _row(values, number) if isinstance(values, dict) else values[number]
    return found


def _with_rows(info: dict[str, Any], fresh: dict[str, Any], rows: Flags) -> dict[str, Any]:
    """Take some environments' rows of a vector's info from another one."""
    merged = dict(info)
    for key, known in info.items():
        if key not in fresh and key.startswith("_") and isinstance(known, np.ndarray):
            merged[key] = known & ~rows  # of the step that was thrown away
    for key, values in fresh.items():
        old = info.get(key)
        if isinstance(values, dict):
            merged[key] = _with_rows(old if isinstance(old, dict) else {}, values, rows)
        elif isinstance(old, np.ndarray) and old.shape == values.shape:
            merged[key] = old.copy()
            merged[key][rows] = values[rows]
        elif old is None:
            merged[key] = values
    return merged


def _neutral(space: gymnasium.Space[Any]) -> Any:
    """Return the action that is nearest to doing nothing."""
    if isinstance(space, spaces.Box):
        return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
    if isinstance(space, spaces.Discrete):
        return space.start
    raise ConfigError(f"there is no zero in the action space {space}: give rest=, an action")
