"""The world goes on as it moves: flow of the last two frames, at constant velocity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import cv2
import numpy as np
from numpy.typing import NDArray

from aid_robot.clip import Foresight
from aid_robot.errors import FrameCountError
from aid_robot.evaluation.metrics.motion import optical_flow
from aid_robot.model.config import AIDConfig
from aid_robot.observation import resize_frames, to_frames
from aid_robot.options import check_count, check_options, check_request
from aid_robot.predictor import PredictOptions, Request


class FlowExtrapolation:
    """Carry the last given frame on by its optical flow, as a `Predictor` shaped as some AID.

    Velocity needs two frames: with K = 1 they come from an observation that is a history, whose
    newest frames the other predictors take alike. From a single frame nothing is known to move,
    and the prediction is that of copying it.

    Args:
        config: Its N, K, fps and size are taken.
    """

    def __init__(self, config: AIDConfig) -> None:
        self.config = config
        self.model_id = "flow"

    @property
    def fps(self) -> float:
        """Frames a second of the recorded world."""
        return self.config.fps

    @property
    def num_frames(self) -> int:
        """N, the frames of a foresight."""
        return self.config.num_frames

    @property
    def num_conditioning_frames(self) -> int:
        """K, the frames that an observation must give."""
        return self.config.num_conditioning_frames

    def predict(
        self,
        obs: Any,
        instruction: str | None = None,
        *,
        num_samples: int = 1,
        seed: int | None = None,
        **options: Unpack[PredictOptions],
    ) -> Foresight:
        """Extrapolate the motion between the last two frames; the samples are all the same."""
        return self.predict_many(
            [Request(obs, instruction, seed)], num_samples=num_samples, **options
        )[0]

    def predict_many(
        self,
        requests: Sequence[Request | tuple[Any, str]],
        *,
        num_samples: int = 1,
        **options: Unpack[PredictOptions],
    ) -> list[Foresight]:
        """Answer several requests."""
        check_count("num_samples", num_samples)
        check_options(options, self.config)
        clips = []
        for request in (r if isinstance(r, Request) else Request(*r) for r in requests):
            # It reads no text, so that a blank instruction is no error.
            free = PredictOptions({**options, "text_guidance_scale": 0.0})
            job = check_request(request, range(num_samples), free, self.config)
            before = self._frame_before(request.obs, options.get("camera"), job.frames)
            future = extrapolate(before, job.frames[-1], self.num_frames - len(job.frames))
            clip = np.concatenate([job.frames, future])
            clips.append(
                Foresight(
                    frames=np.repeat(clip[None], num_samples, axis=0),
                    fps=self.fps,
                    instruction=job.instruction,
                    num_conditioning_frames=self.num_conditioning_frames,
                    seed=job.seed,
                    model_id=self.model_id,
                )
            )
        return clips

    def _frame_before(
        self, obs: Any, camera: str | None, given: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Return the frame before the last, or the last itself where there is no other."""
        frame: NDArray[np.uint8]
        if len(given) > 1:
            frame = given[-2]
            return frame
        try:
            history = to_frames(obs, num_frames=2, camera=camera).frames
        except FrameCountError:
            frame = given[-1]
            return frame
        frame = resize_frames(history[:1], (self.config.height, self.config.width))[0]
        return frame


def extrapolate(
    before: NDArray[np.uint8], last: NDArray[np.uint8], count: int
) -> NDArray[np.uint8]:
    """Predict `count` frames after `last` (H, W, 3), all moving as it did since `before`.

    Each pixel is looked up where it was by the flow found there; what the frame's border uncovers
    is filled by its edge.
    """
    if np.array_equal(before, last):
        return np.repeat(last[None], count, axis=0)
    # Where each pixel of the last frame came from.
    backward = optical_flow(last, before)
    height, width = last.shape[:2]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    frames = []
    # Along the flow step by step, so that a thing takes its velocity with it.
    source = grid
    for _ in range(count):
        step = cv2.remap(backward, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        source = source + step
        frames.append(
            cv2.remap(last, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )
    return np.stack(frames)
