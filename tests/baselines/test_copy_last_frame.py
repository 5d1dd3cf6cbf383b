"""The simplest baseline speaks the predictors' protocol."""

from __future__ import annotations

import numpy as np
import pytest

from aid_robot.baselines import CopyLastFrame
from aid_robot.errors import FrameRateError
from aid_robot.observation import resize_frames
from aid_robot.predictor import Predictor, Request
from tests.tiny import tiny_config

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)


def test_it_repeats_the_last_given_frame() -> None:
    baseline = CopyLastFrame(tiny_config(num_conditioning_frames=2))
    assert isinstance(baseline, Predictor)
    result = baseline.predict(FRAMES, num_samples=2)
    small = resize_frames(FRAMES, (32, 32))
    assert result.frames.shape == (2, 4, 32, 32, 3)
    np.testing.assert_array_equal(result.frames[0, :2], small[1:])
    np.testing.assert_array_equal(result.frames[1, 3], small[2])


def test_it_takes_the_camera_and_checks_as_others_do() -> None:
    baseline = CopyLastFrame(tiny_config())
    obs = {"image_0": FRAMES[0], "image_1": FRAMES[1]}
    one = baseline.predict_many([Request(obs, "open the drawer")], camera="image_1")[0]
    np.testing.assert_array_equal(one.frames[0, -1], resize_frames(FRAMES[1:2], (32, 32))[0])
    with pytest.raises(FrameRateError, match="30"):
        baseline.predict(FRAMES[0], fps=30.0)
