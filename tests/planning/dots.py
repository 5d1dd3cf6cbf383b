"""A world that a test can imagine exactly: a dot on a board that goes where it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from aid_robot.clip import Foresight
from aid_robot.envs.recorded import Instruction
from aid_robot.observation import to_frames
from aid_robot.predictor import Request

SIDE, FPS, FRAMES = 32, 5.0, 6
WAYS = {
    "go left": (-2, 0),
    "go right": (2, 0),
    "go up": (0, -2),
    "go down": (0, 2),
    "stay": (0, 0),
}


def draw(x: float, y: float) -> NDArray[np.uint8]:
    frame = np.full((SIDE, SIDE, 3), 90, np.uint8)
    left, top = round(x), round(y)
    frame[max(0, top - 2) : top + 3, max(0, left - 2) : left + 3] = (240, 230, 30)
    return frame


def find(frame: NDArray[np.uint8]) -> tuple[float, float]:
    rows, columns = np.nonzero(frame[..., 0] > 200)
    return float(columns.mean()), float(rows.mean())


class DotEnv(gymnasium.Env[dict[str, Any], NDArray[np.float32]]):
    """The dot moves by an action (7,), x and y in pixels; done at the goal's side of the board."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}  # noqa: RUF012

    def __init__(self, goal: str = "go right", render_mode: str | None = None) -> None:
        self.render_mode, self.goal = render_mode, goal
        self.observation_space = spaces.Dict(
            {
                "image_0": spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8),
                "state": spaces.Box(-100, 100, (7,), np.float32),
                "instruction": Instruction(),
            }
        )
        self.action_space = spaces.Box(-4, 4, (7,), np.float32)
        self.place, self.kick = np.zeros(2), np.zeros(2)

    def observe(self) -> dict[str, Any]:
        state = np.zeros(7, np.float32)
        state[:2] = self.place
        return {"image_0": draw(*self.place), "state": state, "instruction": self.goal}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        if options:
            raise ValueError(f"options {options} were not taken away")
        self.place = 16.0 + self.np_random.integers(-1, 2, 2)
        self.kick = np.zeros(2)
        return self.observe(), {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = np.clip(self.place + action[:2] + self.kick, 2, SIDE - 3)
        self.kick = np.zeros(2)
        way = np.array(WAYS[self.goal])
        success = bool(way.any() and (self.place - 16) @ way >= 24)
        return self.observe(), float(success), success, False, {"success": success}

    def render(self) -> NDArray[np.uint8] | None:
        return draw(*self.place) if self.render_mode else None


def policy(obs: dict[str, Any], instruction: str) -> NDArray[np.float32]:
    """Go where the instruction says."""
    action = np.zeros(7, np.float32)
    action[:2] = WAYS[instruction]
    return action


class DotPredictor:
    """What follows, exactly; samples differ by noise on the pixels."""

    fps, num_frames, num_conditioning_frames = FPS, FRAMES, 1

    def __init__(self) -> None:
        # Rows of each call.
        self.calls: list[int] = []

    def predict(self, obs: Any, instruction: str | None = None, **options: Any) -> Foresight:
        seed = options.pop("seed", None)
        return self.predict_many([Request(obs, instruction, seed)], **options)[0]

    def predict_many(
        self, requests: Sequence[Any], *, num_samples: int = 1, **options: Any
    ) -> list[Foresight]:
        self.calls.append(len(requests) * num_samples)
        clips = []
        for request in requests:
            first = to_frames(request.obs).frames[-1]
            x, y = find(first)
            dx, dy = WAYS[request.instruction]
            path = [draw(*np.clip([x + dx * t, y + dy * t], 2, SIDE - 3)) for t in range(FRAMES)]
            rng = np.random.default_rng(request.seed)
            noise = rng.integers(0, 9, (num_samples, FRAMES, SIDE, SIDE, 3), np.uint8)
            frames = np.stack(path)[None] + noise
            frames[:, 0] = first
            clips.append(
                Foresight(
                    frames,
                    fps=FPS,
                    instruction=request.instruction,
                    num_conditioning_frames=1,
                    seed=request.seed,
                    model_id="dots",
                )
            )
        return clips


class SideScorer:
    """How far the dot comes towards the side that the goal's text names."""

    name = "side"

    def __call__(self, foresights: Sequence[Foresight], goal: Any) -> NDArray[np.float64]:
        way = np.array(WAYS[goal.text]) / 2
        ends = [[find(clip[-1]) for clip in foresight.frames] for foresight in foresights]
        return np.asarray(np.clip((np.array(ends) @ way - 16 * way.sum() + 16) / 32, 0, 1))
