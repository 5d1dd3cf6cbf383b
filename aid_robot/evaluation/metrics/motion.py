"""Does the prediction move as the truth does? By dense optical flow (OpenCV's DIS)."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aid_robot.errors import MetricError
from aid_robot.evaluation.metrics.metric import (
    Better,
    FloatArray,
    Frames,
    check_clip,
    check_given,
    check_pair,
)

# DIS matches patches of 8x8 pixels.
SMALLEST = 16
# Mean flow of a frame below which it counts as still [px].
STILL = 0.02


def optical_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return where each pixel of a frame (H, W, 3) goes in the next, (H, W, 2) [px]: x, then y."""
    height, width = first.shape[:2]
    if min(height, width) < SMALLEST:
        raise MetricError(
            f"optical flow needs frames of at least {SMALLEST}x{SMALLEST} pixels, got "
            f"{height}x{width}: leave motion out at this size"
        )
    flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # At full resolution; the preset stops at half, which is coarse for small frames.
    flow.setFinestScale(0)
    grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    found: NDArray[np.float32] = flow.calc(*grey, None)
    return found


def flow_magnitude(frames: Frames) -> FloatArray:
    """Return the mean length of the flow between neighbouring frames, (N - 1,) [px]."""
    flows = _flows(check_clip(frames))
    return np.asarray(np.hypot(flows[..., 0], flows[..., 1]).mean((1, 2)), np.float64)


class FlowError:
    """End-point error: mean length of the difference of predicted and true flow.

    The flow into a frame starts at the frame before it in the same clip, for the first at the
    last given one.
    """

    name, unit = "flow_epe", "px"
    better: Better = "lower"
    description = "mean end-point error of the flow into a frame (DIS)"

    def __call__(
        self, predicted: Frames, true: Frames, *, given: Frames | None = None
    ) -> FloatArray:
        """Return the error of each frame, (F,)."""
        ours, theirs = _both_flows(predicted, true, given, self.name)
        return np.asarray(np.linalg.norm(ours - theirs, axis=-1).mean((1, 2)), np.float64)


class FlowRatio:
    """How much of the true motion's amount there is: the smaller mean flow over the larger.

    1 is as much motion as in truth, 0.5 half or twice as much, 0 a still picture. NaN for frames
    in which the truth is still.
    """

    name, unit = "flow_ratio", ""
    better: Better = "higher"
    description = "smaller over larger mean flow of a frame; 1 is as much motion as in truth"

    def __call__(
        self, predicted: Frames, true: Frames, *, given: Frames | None = None
    ) -> FloatArray:
        """Return the ratio of each frame, (F,)."""
        ours, theirs = (
            np.linalg.norm(flow, axis=-1).mean((1, 2), dtype=np.float64)
            for flow in _both_flows(predicted, true, given, self.name)
        )
        moving = theirs >= STILL
        ratio = np.full(len(ours), np.nan)
        ratio[moving] = np.minimum(ours, theirs)[moving] / np.maximum(ours, theirs)[moving]
        return ratio


def _both_flows(
    predicted: Frames, true: Frames, given: Frames | None, name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    predicted, true = check_pair(predicted, true)
    last = check_given(given, predicted, name)[-1:]
    return _flows(np.concatenate([last, predicted])), _flows(np.concatenate([last, true]))


def _flows(frames: Frames) -> NDArray[np.float32]:
    """Return the flow between neighbouring frames, (N - 1, H, W, 2), not to be written to."""
    return _flows_of(frames.tobytes(), frames.shape)


# Both metrics ask for the same flows, and for those of one truth beside every prediction.
@lru_cache(maxsize=4)
def _flows_of(content: bytes, shape: tuple[int, int, int, int]) -> NDArray[np.float32]:
    frames = np.frombuffer(content, np.uint8).reshape(shape)
    flows = [optical_flow(first, second) for first, second in pairwise(frames)]
    found = np.stack(flows) if flows else np.empty((0, *shape[1:3], 2), np.float32)
    found.flags.writeable = False
    return found
