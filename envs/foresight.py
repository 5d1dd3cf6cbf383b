"""An environment that looks before it moves: imagine every plan, score it, do the best.

env = gymnasium.make("aid_robot/Tabletop-v0", render_mode="rgb_array")
env = ForesightPlanner(env, VideoForesight.from_pretrained(), scorer, replan_every=10)
obs, info = env.reset(seed=0)
obs, reward, terminated, truncated, info = env.step(0)  # the planner acts by itself
info["foresight"]["decision"].table()
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces

from aid_robot.envs.decider import (
    Decider,
    ExecutorLike,
    GoalLike,
    Outcome,
    ProposerLike,
    check_goal,
    describe,
    make_parts,
    make_watch,
)
from aid_robot.envs.decisions import DecisionRecorder, check_recordable
from aid_robot.envs.pilot import DONE, FAILED, Pilot
from aid_robot.errors import AIDRobotError, ConfigError
from aid_robot.planning.choose import Beam, Choosing
from aid_robot.planning.decision import Decision
from aid_robot.planning.drawing import beside, draw_decision, draw_waiting, panel_size
from aid_robot.planning.goals import Goal
from aid_robot.planning.plans import PlanLike
from aid_robot.planning.propose import Proposer, make_proposer
from aid_robot.planning.scorers.scorer import Scorer
from aid_robot.predictor import Predictor

Step: TypeAlias = tuple[Any, float, bool, bool, dict[str, Any]]

# Of `render`: frames and plans that are shown, and the height of a frame.
_COLUMNS, _ROWS, _TILE = 5, 6, 96


class ForesightPlanner(gymnasium.Wrapper[Any, int, Any, Any]):
    """Choose by foresight what is done in an environment with images.

    With `mode="auto"` an action (always 0) lets it go on by a step of the environment: it decides
    where a decision is due, and its executor acts. A decision is due at the start, at the plan's
    end, and as `replan_every` and `surprise` say. An episode is truncated where it abstains.

    With `mode="discrete"` an action is the number of the candidate to carry out, to its end or
    until a decision is due; rewards are summed. `info["action_mask"]` says which numbers have a
    candidate; others change nothing.

    `info["foresight"]` has the decision (`planning.decision.Decision`: plans, scores, choice,
    imagined frames, timings), its "reason", whether it "is_new" or "abstained", the "instruction"
    under way, the "steps" since, the "departure" from what was imagined (see `pilot.departure`) and
    why the next decision is "due". With the same seed everything is the same, unless there is a
    `budget`.

    Args:
        env: Its observations hold an image, of any layout that `to_frames` knows.
        predictor: Who imagines.
        scorer: Who judges what was imagined, against the goal.
        goal: What is wanted, as text, image or both; None takes the text of each observation.
            `reset(options={"goal": ..., "plans": [...]})` sets it, and the candidates, for an
            episode.
        propose: Candidates, or who says them; None takes the tabletop's feasible skills.
        executor: Who carries out an instruction: an `Executor`, or a policy (observation,
            instruction) -> action, None once it is done; None takes the tabletop's skills.
        mode: "auto" or "discrete".
        num_candidates: As many as there may be.
        num_samples: Futures of each candidate.
        penalty, threshold, beam, clips_per_step: See `planning.choose.decide`.
        replan_every: Steps after which it decides anew.
        surprise: Departure above which it decides anew.
        budget: Seconds a decision may take, see `planning.pace.Pace`.
        max_plans: Plans that are carried out before the episode is truncated.
        recorder: Records every plan that was carried out.
        outcome: Says from the info of the last step whether the goal was reached, None where that
            can't be said; None takes `info["success"]` where the goal is the observation's own.
        camera: Of observations that have several.
        fps: Steps of the environment a second; None takes what it says itself.
        options: Of the prediction, see `PredictOptions`.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        predictor: Predictor,
        scorer: Scorer,
        *,
        goal: GoalLike | None = None,
        propose: ProposerLike | None = None,
        executor: ExecutorLike | None = None,
        mode: Literal["auto", "discrete"] = "auto",
        num_candidates: int = 8,
        num_samples: int = 1,
        penalty: float = 0.5,
        threshold: float | None = None,
        beam: Beam | None = None,
        clips_per_step: int = 1,
        replan_every: int | None = None,
        surprise: float | None = None,
        budget: float | None = None,
        max_plans: int | None = None,
        recorder: DecisionRecorder | None = None,
        outcome: Outcome | None = None,
        camera: str | None = None,
        fps: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(env)
        if mode not in ("auto", "discrete"):
            raise ConfigError(f"mode is {mode!r}; expected 'auto' or 'discrete'")
        if mode == "discrete" and beam is not None:
            raise ConfigError("a beam composes plans that have no number: use mode='auto' with it")
        if max_plans is not None and max_plans < 1:
            raise ConfigError(f"max_plans={max_plans} must be at least 1")
        if recorder is not None:
            check_recordable(env.action_space)
        self.mode, self.max_plans, self.recorder = mode, max_plans, recorder
        watch = make_watch(
            *(predictor, env.observation_space, env.metadata),
            fps=fps,
            camera=camera,
            replan_every=replan_every,
            surprise=surprise,
        )
        proposer, carrier = make_parts(env, propose, executor)
        self.decider = Decider(
            predictor,
            scorer,
            num_candidates=num_candidates,
            choosing=Choosing(num_samples, penalty, threshold, beam, clips_per_step),
            budget=budget,
            options=options,
        )
        self.pilot = Pilot(env, carrier, watch)
        actions: Any = spaces.Discrete(1 if mode == "auto" else num_candidates)
        self.action_space = actions
        self._goal, self._proposer = goal, proposer
        self._episode_goal: Goal | None = None
        self._episode_proposer: Proposer = proposer
        self._rng = np.random.default_rng()
        self._outcome = outcome
        self._plans_done = 0
        self._reason, self._abstained = "", False
        # What went on when the candidates were imagined, and still could.
        self._under_way: str | None = None
        # Why there are no candidates after a plan's end, raised at the next step.
        self._error: AIDRobotError | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; options "goal" and "plans" are the planner's, others the inner one's.

        With `mode="discrete"` the candidates are imagined here.
        """
        if seed is not None:
            self._rng = np.random.default_rng([seed, 1])
        given = dict(options or {})
        goal: GoalLike | None = given.pop("goal", self._goal)
        plans: list[PlanLike] | None = given.pop("plans", None)
        if self.recorder is not None:  # what was cut short from outside
            self.recorder.end(self.pilot, None)
        obs, info = self.env.reset(seed=seed, options=given or None)
        self.pilot.reset(obs)
        self._plans_done, self._reason, self._abstained, self._error = 0, "", False, None
        # A goal of the observation's own is read anew at each decision.
        self._episode_goal = None if goal is None else check_goal(goal, self.pilot.told)
        self._episode_proposer = self._proposer if plans is None else make_proposer(plans)
        if self.mode == "discrete":
            self._decide()
        return obs, self._described(info, is_new=self.mode == "discrete")

    def step(self, action: int) -> Step:
        """Go on by a step, or carry out candidate `action`; see the class."""
        if self.pilot.obs is None:
            raise gymnasium.error.ResetNeeded("there is nothing to plan for yet: call reset first")
        return self._go_on() if self.mode == "auto" else self._carry_out(int(action))

    def render(self) -> Any:
        """Show the scene beside the imagined strips with their scores, best first."""
        frame = self.env.render()
        if isinstance(frame, list) and frame:
            frame = frame[-1]
        if not isinstance(frame, np.ndarray):
            return frame
        height, width = frame.shape[:2]
        tile = (max(_TILE // 2, round(_TILE * width / height)), _TILE)
        goal, decision = self._episode_goal, self.pilot.decision
        rows = min(_ROWS, self.decider.num_candidates)
        has_image = goal is not None and goal.image is not None
        if decision is None:
            size = panel_size(tile, columns=_COLUMNS, rows=rows, with_image=has_image)
            return beside(frame, draw_waiting(size, self._reason or "no decision yet"))
        return beside(frame, draw_decision(decision, columns=_COLUMNS, rows=rows, tile=tile))

    def close(self) -> None:
        """Keep what was recorded, and close the environment."""
        try:
            if self.recorder is not None:
                self.recorder.end(self.pilot, None)
        finally:
            super().close()

    def _go_on(self) -> Step:
        """Do what the plan in hand, or a new one, says next."""
        pilot = self.pilot
        is_new = pilot.trigger is not None
        if is_new:
            self._reason = self.decider.follow(pilot, self._decide()) or self._reason
            self._abstained = pilot.trigger is not None
            if self._abstained:
                return deepcopy(pilot.obs), 0.0, False, True, self._described({}, is_new=True)
            if self.recorder is not None:
                self.recorder.begin(pilot)
        return self._act(is_new)

    def _carry_out(self, number: int) -> Step:
        """Carry out a candidate, and decide what comes next."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        pilot, decision = self.pilot, self.pilot.decision
        if decision is None or number >= len(decision.plans):
            # Where nothing can be begun, nothing will change by itself.
            over = decision is None
            return deepcopy(pilot.obs), 0.0, False, over, self._described({}, is_new=False)
        begun = pilot.follow(decision, number, self._under_way)
        if self.recorder is not None:
            self.recorder.begin(pilot)
        obs, total, terminated, truncated = deepcopy(pilot.obs), 0.0, False, False
        info: dict[str, Any] = {}
        while begun and pilot.trigger is None and not (terminated or truncated):
            obs, reward, terminated, truncated, info = self._act(is_new=False)
            total += reward
        self._under_way = None if begun or pilot.has_begun else self._under_way
        if not begun and pilot.trigger == FAILED:
            # The scene is as it was, and so are the candidates.
            return obs, 0.0, False, False, self._described(info, is_new=False)
        goes_on = not (terminated or truncated)
        if goes_on:
            try:
                self._decide()
            except AIDRobotError as error:  # what was carried out is not lost
                pilot.decision, self._error = None, error
                self._reason = f"no decision: {error}"
        info.pop("foresight", None)
        return obs, total, terminated, truncated, self._described(info, is_new=goes_on)

    def _act(self, is_new: bool) -> Step:
        pilot, action = self.pilot, self.pilot.action
        obs, reward, terminated, truncated, info = self.env.step(action)
        pilot.after(obs)
        if self.recorder is not None:
            self.recorder.add(pilot, action)
        if pilot.trigger in (DONE, FAILED):
            self._plans_done += 1
            truncated = truncated or self._plans_done == self.max_plans
        over = bool(terminated or truncated)
        if self.recorder is not None and (over or pilot.trigger is not None):
            self.recorder.end(pilot, self._success(info), terminated=bool(terminated))
        described = self._described(info, is_new=is_new)
        return obs, float(reward), bool(terminated), bool(truncated), described

    def _success(self, info: dict[str, Any]) -> Any:
        if self._outcome is not None:
            return self._outcome(info)
        # What the environment calls success is told of its own task alone.
        return info.get("success") if self._episode_goal is None else None

    def _decide(self) -> Decision | None:
        pilot = self.pilot
        goal = self._episode_goal or check_goal(None, pilot.told)
        answer = self.decider.decide([pilot], [goal], [self._episode_proposer], [self._rng])
        pilot.decision, self._reason = answer[0]
        self._under_way = pilot.instruction_under_way
        if self.mode == "discrete":
            self._abstained = pilot.decision is None or pilot.decision.index is None
        return pilot.decision

    def _described(self, info: dict[str, Any], *, is_new: bool) -> dict[str, Any]:
        decision = self.pilot.decision
        found = describe(self.pilot, self._reason, is_new=is_new, abstained=self._abstained)
        info = {**info, "foresight": found}
        if self.mode == "discrete":
            mask = np.zeros(self.decider.num_candidates, np.int8)
            mask[: 0 if decision is None else len(decision.plans)] = 1
            info["action_mask"] = mask
        return info
