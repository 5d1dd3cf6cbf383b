"""Imagination of many plans is that of each alone, and what they share is imagined once."""

from __future__ import annotations

import numpy as np
import pytest

from aid_robot import VideoForesight
from aid_robot.errors import ObservationError, PlanError, SamplingError
from aid_robot.planning.imagine import Imagination, imagine
from aid_robot.planning.plans import Plan
from tests.planning.dots import FRAMES, DotPredictor, draw, find
from tests.tiny import tiny_model

START = draw(16, 16)


def test_later_steps_start_from_the_last_imagined_frame() -> None:
    (clip,) = imagine(DotPredictor(), START, ["go left -> go up"], seed=0, num_samples=2)
    assert clip.frames.shape == (2, 2 * FRAMES - 1, 32, 32, 3)
    assert clip.instruction == "go left -> go up"
    assert find(clip.frames[1, FRAMES - 1]) == (6, 16)
    assert find(clip.frames[1, -1]) == (6, 6)
    assert (clip.frames[0] != clip.frames[1]).any(), "samples differ in every step"
    assert (clip.frames[0, -1] != clip.frames[1, -1]).any()


def test_what_plans_share_is_imagined_once_and_in_one_batch() -> None:
    predictor = DotPredictor()
    plans = ["go left", "go left -> go up", "go left -> go down", "stay -> go up"]
    clips = imagine(predictor, START, plans, num_samples=3, seed=1)
    # Two beginnings, then three second steps.
    assert predictor.calls == [2 * 3, 3 * 3]
    assert len(clips) == 4
    assert np.array_equal(clips[0].frames, clips[1].frames[:, :FRAMES])


def test_other_plans_make_no_difference() -> None:
    plans = ["stay", "go left -> go up", "go left -> go down"]
    together = imagine(DotPredictor(), START, plans, num_samples=2, seed=7)
    for plan, clip in zip(plans, together, strict=True):
        (alone,) = imagine(DotPredictor(), START, [plan], num_samples=2, seed=7)
        assert np.array_equal(alone.frames, clip.frames)


def test_imagination_grows_and_keeps_what_it_has() -> None:
    predictor = DotPredictor()
    imagination = Imagination(predictor, [(START, 0), (draw(10, 10), 1)], 2)
    imagination.add([(0, ("stay",)), (1, ("stay",))])
    imagination.add([(0, ("stay", "go up")), (0, ("stay",))])
    assert predictor.calls == [4, 2]
    assert imagination.rows == 6
    assert find(imagination.foresight(0, ("stay", "go up")).frames[0, -1]) == (16, 6)
    assert find(imagination.foresight(1, ("stay",)).frames[0, -1]) == (10, 10)


def test_real_model_imagines_as_predict_and_rollout_do() -> None:
    model = VideoForesight(tiny_model())
    frame = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    plans = [Plan.of("open the drawer"), Plan.of("open the drawer -> lift the red cube")]
    one, two = imagine(model, frame, plans, seed=3)
    # In a batch, sums come in another order: a pixel may be rounded the other way.
    predicted = model.predict(frame, "open the drawer", seed=3)
    assert np.abs(predicted.frames.astype(int) - one.frames).max() <= 1
    rolled = model.rollout(frame, plans[1].steps, seed=3)
    assert rolled.frames.shape == two.frames.shape
    assert np.abs(rolled.frames.astype(int) - two.frames).max() <= 3
    assert two.seed == 3
    assert [step["seed"] for step in two.settings["plan"]] == [3, 4]


def test_mistakes_are_told() -> None:
    with pytest.raises(PlanError, match="no candidate"):
        imagine(DotPredictor(), START, [])
    with pytest.raises(SamplingError, match="num_samples=0"):
        imagine(DotPredictor(), START, ["stay"], num_samples=0)
    with pytest.raises(ObservationError):
        imagine(DotPredictor(), None, ["stay"])
    with pytest.raises(TypeError, match="states"):
        imagine(DotPredictor(), START, ["stay"], states=["a", "b"])
