"""One environment's way through a plan: what it saw, what is done next, when to think again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from aid_robot.clip import Foresight
from aid_robot.envs.executors import Executor
from aid_robot.errors import AIDRobotError, ConfigError
from aid_robot.observation import resize_frames, to_frames
from aid_robot.planning.decision import Decision
from aid_robot.planning.plans import Plan

Frame = NDArray[np.uint8]

# Why a decision is due.
START, DONE, FAILED, TIME, SURPRISE = (
    *("start", "plan done", "plan failed", "n steps", "surprise"),
)
# The world may be this many frames ahead of what was imagined, or behind it.
_SLACK = 1


@dataclass(frozen=True)
class Watch:
    """How the world is compared with what was imagined, and when to decide anew."""

    # K, steps of the environment between two frames of the predictor, and its steps a second.
    count: int
    stride: int
    fps: float
    camera: str | None = None
    # Decide anew after so many steps; None waits for the plan's end.
    replan_every: int | None = None
    # Decide anew where a frame departs this far from what was imagined, see `departure`.
    surprise: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.replan_every is not None and self.replan_every < 1:
            raise ConfigError(f"replan_every={self.replan_every} must be at least 1 step")
        if self.surprise is not None and not 0 < self.surprise <= 1:
            raise ConfigError(f"surprise={self.surprise} must be above 0 and at most 1")


class Pilot:
    """Follow a plan in one environment.

    Args:
        env: None where it lives in another process.
        executor: Carries out the plan's instructions.
        watch: When to decide anew.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any] | None, executor: Executor, watch: Watch
    ) -> None:
        self.env, self.executor, self.watch = env, executor, watch
        self._frames: deque[Frame] = deque(maxlen=(watch.count - 1) * watch.stride + 1)
        self.obs: Any = None
        # Of the newest observation: proprioception (D,), and the text that it carries.
        self.state: NDArray[np.float32] | None = None
        self.told: str | None = None
        self.decision: Decision | None = None
        self.plan: Plan | None = None
        # Why a decision is due; None while there is something to do.
        self.trigger: str | None = START
        # What to do next.
        self.action: Any = None
        # Steps since the decision, and the last departure from what was imagined.
        self.steps = 0
        self.departure = 0.0
        # Why a plan could not be carried out.
        self.failure = ""
        # Whether the executor has left what it did for the instruction that it began last.
        self.has_begun = False
        self._foresight: Foresight | None = None
        self._number, self._begun_at = 0, 0

    def reset(self, obs: Any) -> None:
        """Forget the episode before."""
        self._frames.clear()
        self.decision = self.plan = self._foresight = self.action = None
        self.trigger, self.steps, self.departure, self.failure = START, 0, 0.0, ""
        self.see(obs)

    def see(self, obs: Any) -> None:
        """Take the newest observation; before the first frame the world stood still."""
        self.obs = obs
        found = to_frames(obs, camera=self.watch.camera)
        self.state, self.told, frame = found.state, found.instruction, found.frames[0]
        self._frames.append(frame)
        while len(self._frames) < (self._frames.maxlen or 1):
            self._frames.append(frame)

    @property
    def frame(self) -> Frame:
        """The newest frame (H, W, 3)."""
        return self._frames[-1]

    @property
    def frames(self) -> Frame:
        """The K frames (K, H, W, 3) that imagination starts from."""
        return np.stack(list(self._frames)[:: self.watch.stride])

    @property
    def instruction(self) -> str:
        """The instruction that is being carried out; blank where there is none."""
        return self.plan.steps[self._number] if self.plan is not None and not self.trigger else ""

    @property
    def remaining(self) -> Plan | None:
        """What is left of a plan that has not come to its end."""
        if self.plan is None or self.trigger in (START, DONE, FAILED):
            return None
        return Plan(self.plan.steps[self._number :])

    def possible(self, plans: list[Plan]) -> tuple[list[Plan], list[str]]:
        """Split off the plans that can't be begun now; returns the others, and why not."""
        under_way = self.remaining
        kept, reasons = [], []
        for plan in plans:
            first = plan.steps[0].casefold()
            goes_on = under_way is not None and first == under_way.steps[0].casefold()
            reason = None if goes_on else self.executor.obstacle(self.env, plan.steps[0])
            if reason is None:
                kept.append(plan)
            else:
                reasons.append(f"'{plan}' can't be begun: {reason}")
        return kept, reasons

    def follow(self, decision: Decision, index: int, under_way: str | None = None) -> bool:
        """Begin with a plan of a decision, or go on with it; returns whether that can be done.

        `under_way` is `instruction_under_way` before the first of several attempts; where a plan
        begins with it, it goes on.
        """
        before = under_way or self.instruction_under_way
        self.decision, self.plan = decision, decision.plans[index]
        self._foresight = decision.foresights[index]
        self._number, self.steps, self._begun_at, self.departure = 0, 0, 0, 0.0
        self.trigger, self.failure, self.has_begun = None, "", False
        if before is not None and before.casefold() == self.plan.steps[0].casefold():
            return True  # what is in hand need not be begun again
        self._begin()
        return self.trigger is None

    @property
    def instruction_under_way(self) -> str | None:
        """The instruction that would go on if the decision were the same."""
        remaining = self.remaining
        return None if remaining is None else remaining.steps[0]

    def after(self, obs: Any) -> None:
        """Take what was seen after an action, and find the next one."""
        self.see(obs)
        self.steps += 1
        self.departure = self._compare()
        self._advance()
        if self.trigger is not None:
            return
        if self.watch.surprise is not None and self.departure > self.watch.surprise:
            self.trigger = SURPRISE
        elif self.steps == self.watch.replan_every:
            self.trigger = TIME

    def _begin(self) -> None:
        assert self.plan is not None
        try:
            self.executor.start(self.env, self.plan.steps[self._number])
        except AIDRobotError as error:
            self._fail(error)
            return
        self.has_begun = True
        self._advance()

    def _advance(self) -> None:
        """Ask for the next action, of the next instruction where one is done."""
        assert self.plan is not None
        try:
            self.action = self.executor.act(self.obs)
        except AIDRobotError as error:
            self._fail(error)
            return
        if self.action is not None:
            return
        if self._number + 1 == len(self.plan):
            self.trigger = DONE
            return
        self._number += 1
        self._begun_at = self.steps
        self._begin()

    def _fail(self, error: AIDRobotError) -> None:
        self.trigger, self.failure = FAILED, str(error)

    def imagined(self) -> Frame | None:
        """Return (samples, n, H, W, 3) of about now; None past the end of the imagined."""
        if self._foresight is None:
            return None
        part = self._foresight.settings["plan"][self._number]
        passed = (self.steps - self._begun_at) // self.watch.stride
        first = self.watch.count - 1 if self._number == 0 else part["start"] - 1
        now = first + passed
        if now >= part["stop"]:
            return None
        return self._foresight.frames[:, max(0, now - _SLACK) : min(now + _SLACK + 1, part["stop"])]

    def _compare(self) -> float:
        imagined = self.imagined()
        return 0.0 if imagined is None else departure(self._frames[-1], imagined)


def departure(observed: Frame, imagined: Frame) -> float:
    """Return how far a frame (H, W, 3) is from the nearest of (samples, n, H, W, 3), in [0, 1].

    It is the root of the mean squared difference, as a share of the range of pixels.
    """
    seen = resize_frames(observed, imagined.shape[2:4]).astype(np.float32)
    apart = np.square(imagined.astype(np.float32) - seen).mean(axis=(2, 3, 4))
    return float(np.sqrt(apart.min()) / 255)
