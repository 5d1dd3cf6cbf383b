"""Where things end, seen from straight above."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aid_robot.data.episode import Episode
from aid_robot.data.frames import ArrayFrames
from aid_robot.evaluation.clips import ClipAt
from aid_robot.evaluation.metrics.objects import Camera
from aid_robot.evaluation.placement import OFF, PLACED, STAY, judge_placement, lay_table

CAMERA = Camera(position=(0, 0, 1), right=(1, 0, 0), up=(0, 1, 0), fovy=50.0)
SIZE = (64, 64)
COLOURS = {"red cube": (210, 40, 40), "blue cube": (40, 60, 210)}
START = {"red cube": (-0.2, -0.2), "blue cube": (0.2, 0.2)}
END = {**START, "red cube": (0.2, -0.2)}
CLIP = ClipAt(0, 0, "e", "", 0, 1, "s", "g", "push the red cube right")


def state(places: dict[str, tuple[float, float]]) -> dict[str, Any]:
    return {
        "things": [
            {
                "name": name,
                "position": [*place, 0.0],
                "quaternion": [1, 0, 0, 0],
                "half_size": [0.05, 0.05, 0.001],
            }
            for name, place in places.items()
        ]
    }


def draw(places: dict[str, tuple[float, float]]) -> npt.NDArray[np.uint8]:
    frame = np.full((*SIZE, 3), 150, np.uint8)
    for name, place in places.items():
        x, y = CAMERA.project([[*place, 0.0]], SIZE)[0].round().astype(int)
        frame[y - 3 : y + 4, x - 3 : x + 4] = COLOURS[name]
    return frame


def episode(**info: Any) -> Episode:
    frames = ArrayFrames(np.stack([draw(START)] * 3 + [draw(END)]))
    known = {"states": {"start": state(START), "end": state(END)}, "task": {"object": "red cube"}}
    return Episode("e", {"image_0": frames}, info={**known, **info})


def judged(places: dict[str, tuple[float, float]]) -> dict[str, list[float | None]]:
    table = lay_table(episode(), CLIP, 3, SIZE, CAMERA)
    assert table is not None
    samples = np.stack([[draw(START), draw(START), draw(places)]])
    true = np.stack([draw(START), draw(START), draw(END)])
    return judge_placement(table, samples, true, draw(START)[None])


def test_a_thing_at_its_place_is_placed() -> None:
    found = judged(END)
    assert (found[PLACED], found[STAY]) == ([1.0], [1.0])
    assert found[OFF][0] == pytest.approx(0, abs=0.1)


def test_a_thing_left_behind_is_not() -> None:
    found = judged(START)
    assert (found[PLACED], found[STAY]) == ([0.0], [1.0])
    assert found[OFF][0] == pytest.approx(40, abs=2)


def test_the_wrong_thing_moved() -> None:
    found = judged({"red cube": START["red cube"], "blue cube": (-0.2, 0.2)})
    assert (found[PLACED], found[STAY]) == ([0.0], [0.0])


def test_a_vanished_thing_is_not_placed_but_nowhere() -> None:
    found = judged({"blue cube": START["blue cube"]})
    assert (found[PLACED], found[OFF], found[STAY]) == ([0.0], [None], [1.0])


def test_what_is_not_known_is_not_judged() -> None:
    assert lay_table(episode(states={}), CLIP, 3, SIZE, CAMERA) is None
    assert lay_table(episode(), replace(CLIP, start=1), 3, SIZE, CAMERA) is None
    table = lay_table(episode(task={"object": "drawer"}), CLIP, 3, SIZE, CAMERA)
    assert table is not None
    still = np.stack([draw(START)] * 3)
    found = judge_placement(table, still[None], still, draw(START)[None])
    assert found[PLACED] == [None]
