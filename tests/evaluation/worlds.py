"""A tiny world in which instructions mean something, and predictors of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from aid_robot.baselines import CopyLastFrame
from aid_robot.clip import Foresight
from aid_robot.data.episode import Episode
from aid_robot.data.frames import ArrayFrames
from aid_robot.data.store import EpisodeStore
from aid_robot.evaluation.protocols import EvaluationProtocol
from aid_robot.predictor import PredictOptions, Request
from tests.tiny import tiny_config

SIZE = 32
FRAMES = 4
STEPS = {"left": (0, -4), "right": (0, 4), "up": (-4, 0), "down": (4, 0)}
PROTOCOL = EvaluationProtocol("tiny", num_frames=FRAMES, size=(SIZE, SIZE), split="all")
# How a model is judged where it matters that it is judged, not how well it predicts.
BRIEF: dict[str, Any] = {"metrics": ("psnr",), "options": {"steps": 1}}


def instruction(way: str) -> str:
    return f"push the cube {way}"


def push(start: npt.NDArray[np.uint8], way: str, count: int) -> npt.NDArray[np.uint8]:
    """Let a picture wander, (count, H, W, 3), the first as it is."""
    step = STEPS[way]
    return np.stack([np.roll(start, (t * step[0], t * step[1]), axis=(0, 1)) for t in range(count)])


def still_picture(seed: int) -> npt.NDArray[np.uint8]:
    """Draw a bright square on a dark table, with a little noise."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(20, 40, (SIZE, SIZE, 3), dtype=np.uint8)
    row, column = rng.integers(8, 18, 2)
    picture[row : row + 6, column : column + 6] = (220, 60, 60)
    return picture


def make_episodes(
    starts: int, length: int = 8, ways: Sequence[str] = tuple(STEPS)
) -> list[Episode]:
    """Make one episode for each way from each start, as `simulate --alternatives` does."""
    return [
        Episode(
            id=f"s{start}-{way}",
            videos={"image_0": ArrayFrames(push(still_picture(start), way, length))},
            instruction=instruction(way),
            instructions=(instruction(way), f"shove the cube {way}"),
            fps=5.0,
            scene=f"s{start}",
            info={"alternatives_group": f"s{start}"},
        )
        for start in range(starts)
        for way in ways
    ]


def make_store(path: Path, episodes: Sequence[Episode]) -> Path:
    """Keep episodes losslessly."""
    with EpisodeStore.create(str(path), codec="png") as store:
        store.extend(episodes)
    return path


def copying() -> CopyLastFrame:
    return CopyLastFrame(tiny_config())


class Obedient(CopyLastFrame):
    """Does what it is told, as far as it hears it; a share of its frames' grey is noise."""

    def __init__(self, noise: int = 0) -> None:
        super().__init__(tiny_config())
        self._noise = noise
        self.asked: list[tuple[str, int | None]] = []

    def predict_many(
        self,
        requests: Sequence[Request | tuple[Any, str]],
        *,
        num_samples: int = 1,
        **options: Unpack[PredictOptions],
    ) -> list[Foresight]:
        found = []
        copied = super().predict_many(requests, num_samples=num_samples, **options)
        for request, foresight in zip(requests, copied, strict=True):
            assert isinstance(request, Request)
            self.asked.append((request.instruction or "", request.seed))
            way = next((w for w in STEPS if w in (request.instruction or "").split()), "")
            frames = foresight.frames.copy()
            if way:
                frames[:] = push(frames[0, 0], way, self.num_frames)
            rng = np.random.default_rng(request.seed)
            noise = rng.integers(0, self._noise + 1, frames[:, 1:].shape, dtype=np.uint8)
            frames[:, 1:] += noise
            found.append(
                Foresight(
                    frames, self.fps, foresight.instruction, 1, settings={"noise": self._noise}
                )
            )
        return found
