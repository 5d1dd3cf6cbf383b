"""The world goes on as it moves: flow of the last two frames, at constant velocity."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aid_robot.baselines.textless import TextlessBaseline
from aid_robot.errors import FrameCountError
from aid_robot.evaluation.metrics.motion import optical_flow
from aid_robot.observation import resize_frames, to_frames


class FlowExtrapolation(TextlessBaseline):
    """Carry the last given frame on by its optical flow.

    Velocity needs two frames: with K = 1 they come from an observation that is a history, whose
    newest frames the other predictors take alike. From a single frame nothing is known to move,
    and the prediction is that of copying it.
    """

    name = "flow"

    def continue_frames(
        self, given: NDArray[np.uint8], count: int, obs: Any, camera: str | None
    ) -> NDArray[np.uint8]:
        """Extrapolate the motion between the last two frames."""
        return extrapolate(self._frame_before(obs, camera, given), given[-1], count)

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
