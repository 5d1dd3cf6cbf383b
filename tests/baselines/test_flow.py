"""What moves goes on moving."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from aid_robot.baselines import CopyLastFrame, FlowExtrapolation
from aid_robot.baselines.flow import extrapolate
from aid_robot.evaluation.metrics.pixels import PSNR
from aid_robot.predictor import Predictor, Request
from tests.tiny import tiny_config


def sliding(count: int, step: float, size: int = 64) -> np.ndarray:
    """A texture that slides `step` pixels a frame to the right."""
    rng = np.random.default_rng(1)
    wide = cv2.GaussianBlur(rng.uniform(0, 255, (size, 2 * size, 3)), (0, 0), 2)
    frames = []
    for index in range(count):
        shift = np.array([[1, 0, step * index - size / 2], [0, 1, 0]], np.float32)
        frames.append(cv2.warpAffine(wide, shift, (size, size), flags=cv2.INTER_LINEAR))
    return np.stack(frames).round().astype(np.uint8)


def test_a_sliding_texture_slides_on() -> None:
    clip = sliding(6, 1.5)
    future = extrapolate(clip[1], clip[2], 3)
    inner = (slice(None), slice(8, 56), slice(16, 56))
    ours = PSNR()(future[inner], clip[3:][inner])
    still = PSNR()(clip[2:3][inner].repeat(3, 0), clip[3:][inner])
    assert (ours > still + 6).all()
    np.testing.assert_array_equal(extrapolate(clip[2], clip[2], 2), clip[2:3].repeat(2, 0))


def test_as_a_predictor() -> None:
    config = tiny_config(height=64, width=64)
    flow = FlowExtrapolation(config)
    assert isinstance(flow, Predictor)
    clip = sliding(6, 2)
    # A model of K = 1 is given a history: the newest frame is what every predictor sees.
    foresight = flow.predict(clip[:3], "go on", num_samples=2, seed=3)
    assert foresight.frames.shape == (2, 4, 64, 64, 3)
    np.testing.assert_array_equal(foresight.frames[0, 0], clip[2])
    np.testing.assert_array_equal(foresight.frames[0], foresight.frames[1])
    assert foresight.model_id == "flow"
    np.testing.assert_array_equal(foresight.frames[0, 1:], extrapolate(clip[1], clip[2], 3))


def test_a_single_frame_stays_as_it_is() -> None:
    config = tiny_config()
    frame = sliding(1, 0)[0]
    requests = [Request(frame, ""), Request({"image_0": frame}, "go on")]
    flow = FlowExtrapolation(config).predict_many(requests)
    copied = CopyLastFrame(config).predict_many(requests)
    for ours, theirs in zip(flow, copied, strict=True):
        np.testing.assert_array_equal(ours.frames, theirs.frames)


def test_two_given_frames_are_enough() -> None:
    config = tiny_config(height=64, width=64, num_conditioning_frames=2)
    clip = sliding(2, 2)
    foresight = FlowExtrapolation(config).predict(clip)
    assert np.abs(foresight.frames[0, 2].astype(int) - clip[1]).mean() > 2


@pytest.mark.parametrize("camera", ["image_0", "image_1"])
def test_the_frame_before_is_of_the_same_camera(camera: str) -> None:
    clips = {"image_0": sliding(3, 2), "image_1": sliding(3, -2)}
    history = [{name: clip[i] for name, clip in clips.items()} for i in range(3)]
    config = tiny_config(height=64, width=64)
    foresight = FlowExtrapolation(config).predict(history, camera=camera)
    clip = clips[camera]
    np.testing.assert_array_equal(foresight.frames[0, 1:], extrapolate(clip[1], clip[2], 3))
