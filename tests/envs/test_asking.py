"""Questions about simulated episodes have the answers that their states give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aid_robot.data import Episode
from aid_robot.data.frames import ArrayFrames
from aid_robot.envs.tabletop.asking import TabletopAsker
from aid_robot.envs.tabletop.state import SceneState
from aid_robot.envs.tabletop.tasks import Task
from aid_robot.errors import DataFormatError
from tests.envs.scenes import kitchen, scene, thing

TASK = Task("put", "carrot", "green plate")


def moved(state: SceneState, name: str, *place: float) -> SceneState:
    """Put a thing of a scene elsewhere."""
    return scene(*(thing(name, *place) if t.name == name else t for t in state.things))


START = kitchen()
DONE = moved(START, "carrot", 0.30, 0.15, 0.02)
PUSHED = moved(START, "red cube", 0.20, 0.06)


def episode(end: SceneState, task: Task = TASK, name: str = "0", **info: Any) -> Episode:
    states = {"start": START.to_json(), "end": end.to_json()}
    return Episode(
        id=name,
        videos={"image_0": ArrayFrames(np.zeros((8, 8, 8, 3), np.uint8))},
        info={"states": states, "task": task.to_json(), **info},
    )


def answers(end: SceneState) -> dict[tuple[str, str], tuple[bool, bool]]:
    return {
        (pair.order, wording): (bool(question.true), bool(question.changed))
        for pair in TabletopAsker().pairs(episode(end))
        for question in pair.questions
        for wording in question.wordings()
    }


def test_what_has_come_about_is_true_and_changed() -> None:
    found = answers(DONE)
    assert found["done", "the carrot is on the green plate"] == (True, True)
    assert found["done", "put the carrot on the green plate"] == (True, True)
    # The only plate needs no colour.
    assert found["done", "place carrot on plate"] == (True, True)


def test_nothing_is_done_before_it_is_or_when_it_is_undone() -> None:
    found = answers(DONE)
    assert not found["still", "put the carrot on the green plate"][0]
    undone = {key: value for key, value in found.items() if key[0] == "reversed"}
    assert not any(
        true for (_, text), (true, _) in undone.items() if text == "put carrot on green plate"
    )
    assert found["still", "the gripper is empty"][1] is False


def test_another_outcome_is_no_success_though_its_own_statements_hold() -> None:
    found = answers(PUSHED)
    assert found["done", "the red cube has moved to the left"] == (True, True)
    assert not found["done", "put the carrot on the green plate"][0]


def test_who_brought_about_what() -> None:
    asker = TabletopAsker()
    done = episode(DONE, name="0-0")
    other = episode(PUSHED, Task("push", "red cube", direction="left"), name="0-1")
    failed = episode(START, name="0-2")
    assert asker.reached(done, done)
    assert asker.reached(other, done) is False
    assert asker.reached(failed, done) is False
    # What a failure shows is nobody's goal.
    assert asker.reached(done, failed) is None


def test_episodes_without_states_are_refused() -> None:
    good = episode(DONE)
    assert TabletopAsker.knows(good)
    bare = replace(good, info={"task": TASK.to_json()})
    assert not TabletopAsker.knows(bare)
    with pytest.raises(DataFormatError, match="states"):
        TabletopAsker().pairs(bare)
