"""Motion is measured as it was made."""

from __future__ import annotations

import numpy as np
import pytest

from aid_robot.errors import MetricError
from aid_robot.evaluation.metrics.metric import FrameMetric
from aid_robot.evaluation.metrics.motion import (
    FlowError,
    FlowRatio,
    flow_magnitude,
    optical_flow,
)


def test_flow_is_that_of_the_disc(moving_clip: np.ndarray) -> None:
    flow = optical_flow(moving_clip[3], moving_clip[4])
    assert flow.shape == (64, 64, 2)
    inside = np.median(flow[26:38, 18:30].reshape(-1, 2), axis=0)
    np.testing.assert_allclose(inside, [2, 0], atol=0.25)
    assert np.abs(np.median(flow[:8].reshape(-1, 2), axis=0)).max() < 0.1
    share = np.pi * 14**2 / 64**2
    # The flow is smooth, and reaches beyond the disc's edge.
    assert 2 * share < flow_magnitude(moving_clip).mean() < 1.6 * 2 * share


def test_still_and_reversed_predictions_are_told(moving_clip: np.ndarray) -> None:
    given, true = moving_clip[:1], moving_clip[1:]
    error, ratio = FlowError(), FlowRatio()
    assert isinstance(error, FrameMetric)
    assert isinstance(ratio, FrameMetric)
    still = np.repeat(given, len(true), axis=0)
    assert error(true, true, given=given).max() == 0
    np.testing.assert_array_equal(ratio(true, true, given=given), 1)
    np.testing.assert_array_equal(ratio(still, true, given=given), 0)
    magnitude = flow_magnitude(moving_clip)
    np.testing.assert_allclose(error(still, true, given=given), magnitude, rtol=1e-4)
    # Backwards there is as much motion, but all of it wrong.
    last = moving_clip[-1:]
    backwards, forwards = moving_clip[-2::-1], moving_clip[1:]
    away = error(backwards, forwards, given=last)[1:]
    assert (away > 1.5 * magnitude[1:]).all()
    assert ratio(backwards, forwards, given=last)[1:].min() > 0.8


def test_a_still_truth_can_not_be_judged_by_ratio(moving_clip: np.ndarray) -> None:
    still = np.repeat(moving_clip[:1], 3, axis=0)
    assert np.isnan(FlowRatio()(moving_clip[1:4], still, given=moving_clip[:1])).all()


def test_what_is_missing_is_named(moving_clip: np.ndarray) -> None:
    with pytest.raises(MetricError, match="given"):
        FlowError()(moving_clip[1:], moving_clip[1:])
    small = np.zeros((2, 12, 12, 3), np.uint8)
    with pytest.raises(MetricError, match="at least 16x16"):
        FlowError()(small, small, given=small)
    with pytest.raises(MetricError, match="resize both"):
        FlowError()(moving_clip[1:], moving_clip[1:], given=np.zeros((1, 32, 32, 3), np.uint8))
