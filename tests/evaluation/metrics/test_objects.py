"""Objects are found by colour where they were drawn."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.errors import MetricError
from aid_robot.evaluation.metrics.objects import Camera, KnownObject, find_ends, known_objects

SIZE = (96, 96)
# Half a metre above the table, looking straight down: 1 m is 96 pixels at tan(45 degrees).
ABOVE = Camera((0, 0, 0.5), (1, 0, 0), (0, 1, 0), 90)
COLORS = {"red cube": (200, 30, 30), "blue cup": (30, 60, 200)}
START = {"red cube": (24, 30), "blue cup": (70, 60)}


def draw(places: dict[str, tuple[int, int]], twin: tuple[int, int] | None = None) -> np.ndarray:
    """Paint squares of 10 pixels on an uneven table, and maybe the red one twice."""
    rng = np.random.default_rng(0)
    frame = cv2.GaussianBlur(rng.uniform(120, 190, (*SIZE, 1)).repeat(3, 2), (0, 0), 2)
    squares = [(place, COLORS[name]) for name, place in places.items()]
    for (x, y), color in [*squares, (twin, COLORS["red cube"])] if twin else squares:
        frame[y - 5 : y + 5, x - 5 : x + 5] = color
    return cv2.GaussianBlur(frame, (0, 0), 0.6).round().astype(np.uint8)


def region(place: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    x, y = place
    mask[y - 8 : y + 7, x - 7 : x + 8] = True
    return mask


def objects(end: dict[str, tuple[int, int]] | None = None) -> list[KnownObject]:
    return [
        KnownObject(name, region(place), region(end[name]) if end else None)
        for name, place in START.items()
    ]


def test_the_truth_is_where_it_is() -> None:
    end = {**START, "red cube": (54, 70)}
    true, start = draw(end), draw(START)
    for known in (objects(end), objects()):
        ends = find_ends(true, true, start, known, ABOVE)
        assert ends["red cube"].found
        assert ends["red cube"].distance_px == 0
        assert ends["red cube"].true_move_px == pytest.approx(50, abs=0.3)
        assert ends["red cube"].move_cm == pytest.approx(100 * 50 / 96, abs=0.5)
        assert ends["blue cup"].true_move_px < 0.2


def test_a_prediction_that_moves_the_wrong_thing() -> None:
    true = draw({**START, "red cube": (54, 70)})
    wrong = draw({**START, "blue cup": (70, 30)})
    ends = find_ends(wrong, true, draw(START), objects(), ABOVE)
    assert ends["red cube"].distance_px == pytest.approx(50, abs=0.5)
    assert ends["red cube"].move_px < 0.3
    assert ends["blue cup"].move_px == pytest.approx(30, abs=0.5)
    assert ends["blue cup"].distance_cm == pytest.approx(100 * 30 / 96, abs=0.5)


def test_a_vanished_thing_is_not_found() -> None:
    true = draw(START)
    ends = find_ends(draw({"red cube": (24, 30)}), true, true, objects(START))
    assert ends["red cube"].found
    assert ends["blue cup"].found is False
    assert math.isnan(ends["blue cup"].distance_px)
    assert math.isnan(ends["red cube"].distance_cm)


def test_twins_and_hidden_things_can_not_be_judged() -> None:
    true = draw(START)
    twin = draw(START, twin=(75, 25))
    ends = find_ends(true, twin, twin, objects(START))
    assert ends["red cube"].found is None
    assert ends["blue cup"].found
    hidden = draw({"red cube": (24, 30)})
    assert find_ends(true, hidden, true, objects(START))["blue cup"].found is None


def test_bad_input_is_named() -> None:
    frame = draw(START)
    with pytest.raises(MetricError, match="region of 'red cube'"):
        find_ends(frame[:64], frame[:64], frame[:64], objects())
    with pytest.raises(MetricError, match="behind the camera"):
        ABOVE.project([[0, 0, 1.0]], SIZE)
    with pytest.raises(MetricError, match="above the horizon"):
        Camera((0, 0, 0.5), (1, 0, 0), (0, 0, 1), 90).to_plane((5, 5), 0.0, SIZE)


@given(
    x=st.floats(-0.4, 0.4), y=st.floats(-0.4, 0.4), z=st.floats(-0.1, 0.2),
    tilt=st.floats(0, 0.6), fovy=st.floats(20, 90),
)  # fmt: skip
def test_projecting_and_back(x: float, y: float, z: float, tilt: float, fovy: float) -> None:
    up = (0, math.cos(tilt), math.sin(tilt))
    camera = Camera((0.1, -0.2, 1.0), (1, 0, 0), up, fovy)
    pixel = camera.project([[x, y, z]], (64, 80))[0]
    np.testing.assert_allclose(camera.to_plane(pixel, z, (64, 80)), (x, y, z), atol=1e-9)


def test_regions_are_drawn_from_scene_states() -> None:
    def state(x: float) -> dict[str, object]:
        box = {"position": (x, 0.1, 0.0), "quaternion": (1, 0, 0, 0), "half_size": (0.05,) * 3}
        return {"things": [{"name": "red cube", **box}]}

    (thing,) = known_objects(state(-0.2), state(0.1), ABOVE, SIZE)
    y, x = np.nonzero(thing.start)
    assert (x.mean(), y.mean()) == pytest.approx((47.5 - 0.2 * 96, 47.5 - 0.1 * 96), abs=2.5)
    assert thing.end is not None
    assert np.nonzero(thing.end)[1].mean() == pytest.approx(47.5 + 0.1 * 96, abs=2)
    assert known_objects(state(0), None, ABOVE, SIZE)[0].end is None
