"""What counts as done, and what can truly be said of a scene."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aid_robot.envs.tabletop.captions import (
    captions,
    describe_goal,
    goal_paraphrases,
    parse_goal,
    statements,
)
from aid_robot.envs.tabletop.goals import (
    PREDICATES,
    Goal,
    goal_of,
    holds,
    is_refuted,
    succeeded,
)
from aid_robot.envs.tabletop.relations import carried_by, gap, is_on, load_of
from aid_robot.envs.tabletop.tasks import DIRECTION_VECTORS, Task
from aid_robot.errors import InstructionError, SimulationError
from tests.envs.scenes import changed, kitchen, moved, scene, thing

NAMES = ("red cube", "blue cube", "carrot", "can", "green plate", "bowl", "drawer")


def test_put_on_a_plate() -> None:
    task, before = Task("put", "carrot", "green plate"), kitchen()
    assert not succeeded(task, before, before)
    done = moved(before, "carrot", 0.31, 0.14, 0.005)
    assert succeeded(task, before, done)
    assert not succeeded(task, before, replace(done, held="carrot"))
    assert not succeeded(task, before, moved(before, "carrot", 0.31, 0.14, 0.05))  # in the air
    assert not succeeded(task, before, moved(before, "carrot", 0.31, 0.06, 0.0))  # beside
    assert not succeeded(task, before, moved(before, "red cube", 0.31, 0.14, 0.005))
    pushed_away = moved(moved(before, "green plate", 0.36, 0.15), "carrot", 0.36, 0.14, 0.005)
    assert not succeeded(task, before, pushed_away)


def test_put_in_a_bowl() -> None:
    task, before = Task("put", "red cube", "bowl"), kitchen()
    assert goal_of(task) == Goal("in", ("red cube", "bowl"))
    assert succeeded(task, before, moved(before, "red cube", 0.21, -0.15, 0.01))
    assert not succeeded(task, before, moved(before, "red cube", 0.21, -0.15, 0.05))  # on the rim
    assert not succeeded(task, before, moved(before, "red cube", 0.21, -0.07, 0.0))


def test_lift_is_held_and_high() -> None:
    task, before = Task("lift", "can"), kitchen()
    assert succeeded(task, before, moved(before, "can", 0.4, -0.1, 0.05, held="can"))
    assert not succeeded(task, before, moved(before, "can", 0.4, -0.1, 0.05))
    assert not succeeded(task, before, moved(before, "can", 0.4, -0.1, 0.035, held="can"))
    assert not succeeded(task, before, moved(before, "carrot", 0.4, 0, 0.05, held="carrot"))


def test_lifted_without_a_state_before_is_above_what_lies_below() -> None:
    goal = Goal("lifted", ("can",))
    assert holds(goal, moved(kitchen(), "can", 0.4, -0.1, 0.045, held="can"))
    assert not holds(goal, moved(kitchen(), "can", 0.4, -0.1, 0.035, held="can"))
    assert not holds(goal, moved(kitchen(), "can", 0.3, 0.15, 0.045, held="can"))  # the plate


@pytest.mark.parametrize(("direction", "vector"), DIRECTION_VECTORS.items())
def test_push_goes_its_way(direction: str, vector: tuple[float, float]) -> None:
    before = kitchen()
    task = Task("push", "carrot", direction=direction)  # type: ignore[arg-type]
    x, y = 0.30 + 0.06 * vector[0], 0.06 * vector[1]
    assert succeeded(task, before, moved(before, "carrot", x, y))
    assert not succeeded(task, before, moved(before, "carrot", x, y, 0.03))
    assert not succeeded(task, before, moved(before, "carrot", x, y, held="carrot"))
    assert not succeeded(task, before, moved(before, "carrot", 0.60 - x, -y))
    assert not succeeded(
        task, before, moved(before, "carrot", x + 0.07 * vector[1], y + 0.07 * vector[0])
    )
    short = moved(before, "carrot", 0.30 + 0.03 * vector[0], 0.03 * vector[1])
    assert not succeeded(task, before, short)


def test_stack_and_next_to() -> None:
    before = kitchen()
    stack = Task("stack", "red cube", "blue cube")
    on_top = moved(before, "red cube", 0.21, 0.15, 0.04)
    assert succeeded(stack, before, on_top)
    assert carried_by("red cube", on_top) == "blue cube"
    assert load_of("blue cube", on_top) == ("red cube",)
    beside = Task("move_next_to", "red cube", "blue cube")
    assert not succeeded(beside, before, on_top)
    assert succeeded(beside, before, moved(before, "red cube", 0.20, 0.08))
    assert succeeded(beside, before, moved(before, "red cube", 0.20, 0.1101))
    assert not succeeded(beside, before, moved(before, "red cube", 0.20, 0.06))
    assert not succeeded(stack, before, moved(before, "red cube", 0.20, 0.11))
    assert not succeeded(beside, before, moved(before, "red cube", 0.20, 0.08, held="red cube"))


def test_drawers() -> None:
    shut = kitchen()
    wide, ajar = changed(shut, "drawer", open=0.8), changed(shut, "drawer", open=0.5)
    assert succeeded(Task("open", "drawer"), shut, wide)
    assert not succeeded(Task("open", "drawer"), shut, ajar)
    assert succeeded(Task("close", "drawer"), wide, shut)
    assert not succeeded(Task("close", "drawer"), wide, ajar)
    with pytest.raises(SimulationError, match="only drawers"):
        holds(Goal("open", ("can",)), shut)


def test_idle_leaves_everything() -> None:
    before = kitchen()
    assert succeeded(Task("idle"), before, moved(before, "can", 0.405, -0.15))
    assert not succeeded(Task("idle"), before, moved(before, "can", 0.415, -0.15))


@pytest.mark.parametrize(("x", "y", "side"), [
    (0.3, 0.1, "left_of"), (0.3, -0.1, "right_of"), (0.2, 0.0, "in_front_of"), (0.4, 0.0, "behind"),
])  # fmt: skip
def test_sides_are_seen_from_behind_the_robot(x: float, y: float, side: str) -> None:
    state = scene(thing("can", x, y), thing("red cube", 0.3, 0.0))
    sides = ("left_of", "right_of", "in_front_of", "behind")
    assert [s for s in sides if holds(Goal(s, ("can", "red cube")), state)] == [side]
    opposite = {"left_of": "right_of", "in_front_of": "behind"}
    opposite |= {value: key for key, value in opposite.items()}
    assert is_refuted(Goal(opposite[side], ("can", "red cube")), state)
    assert holds(Goal(opposite[side], ("red cube", "can")), state)


def test_gap_between_turned_things() -> None:
    can = thing("can", 0.3, 0.1)
    assert gap(thing("red cube", 0.3, 0.0), can) == pytest.approx(0.06, abs=1e-6)
    turned = thing("red cube", 0.3, 0.0, yaw=np.pi / 4)
    assert gap(turned, can) == pytest.approx(0.08 - 0.02 * np.sqrt(2), abs=1e-3)
    long_way, across = thing("carrot", 0.3, 0.0, yaw=np.pi / 2), thing("carrot", 0.3, 0.0)
    assert gap(long_way, can) == pytest.approx(0.035, abs=1e-6)
    # A cross: no corner of the one is inside the other.
    assert gap(long_way, across) == 0.0


def test_what_leans_or_lies_is_judged_by_its_pose() -> None:
    lying = replace(thing("can", 0.3, 0.0), quaternion=np.array([np.sqrt(0.5), 0, np.sqrt(0.5), 0]))
    assert lying.extent == pytest.approx([0.035, 0.02, 0.02])
    cube = thing("red cube", 0.32, 0.0, 0.055)
    assert is_on(cube, lying)
    assert not is_on(replace(cube, position=np.array([0.3, 0.03, 0.075])), lying)


def test_goals_name_what_they_lack() -> None:
    with pytest.raises(SimulationError, match="not a predicate"):
        Goal("floats", ("can",))
    with pytest.raises(SimulationError, match="2 different things"):
        Goal("on", ("can",))
    with pytest.raises(SimulationError, match="state before"):
        holds(Goal("moved_left", ("can",)), kitchen())
    with pytest.raises(SimulationError, match="no 'spoon'"):
        holds(Goal("lifted", ("spoon",)), kitchen())


@pytest.mark.parametrize("predicate", PREDICATES)
def test_parse_goal_inverts_every_wording(predicate: str) -> None:
    goals = [g for g in statements(kitchen(), kitchen()) if g.predicate == predicate]
    goals = goals or [Goal(predicate)]
    for goal in goals:
        wordings = goal_paraphrases(goal, NAMES)
        assert wordings[0] == describe_goal(goal)
        for wording in wordings:
            assert parse_goal(wording, NAMES) == goal, wording
            assert parse_goal(f" {wording.replace('the ', '').upper()}!", NAMES) == goal


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("the cube is on the plate", "red cube or blue cube"),
        ("the spoon is on the plate", "no 'spoon'"),
        ("the can is on the can", "twice"),
        ("put the can on the plate", "say it like"),
        ("", "no text"),
    ],
)
def test_parse_goal_explains(text: str, said: str) -> None:
    with pytest.raises(InstructionError, match=said):
        parse_goal(text, NAMES)


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_captions_are_balanced_and_true_to_the_scene(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = kitchen()
    state = moved(before, "red cube", *rng.uniform((0.15, -0.2), (0.5, 0.2)))
    if seed % 3 == 0:
        state = moved(before, "carrot", 0.3, 0.15, 0.01)
    drawn = captions(state, rng, 10, before if seed % 2 else None)
    assert len(drawn) == 10
    assert len({caption.text for caption in drawn}) == 10
    for caption in drawn:
        goal = parse_goal(caption.text, state)
        assert goal == caption.goal
        assert holds(goal, state, before) == caption.true
        assert is_refuted(goal, state, before) != caption.true
    for right, wrong in zip(drawn[::2], drawn[1::2], strict=True):
        assert right.true
        assert not wrong.true


def test_captions_of_a_kind_are_as_often_true_as_false() -> None:
    """So that the words alone don't give the answer away."""
    rng = np.random.default_rng(0)
    counts: Counter[tuple[str, bool]] = Counter()
    state = changed(moved(kitchen(), "carrot", 0.3, 0.15, 0.01), "drawer", open=1.0)
    for _ in range(300):
        counts.update((caption.goal.predicate, caption.true) for caption in captions(state, rng))
    for predicate in ("on", "next_to"):
        assert counts[predicate, True] == counts[predicate, False] > 50


def test_captions_begin_with_what_they_are_about() -> None:
    rng = np.random.default_rng(0)
    before = kitchen()
    after = moved(before, "carrot", 0.3, 0.15, 0.01)
    right, wrong = captions(after, rng, before=before, about=Goal("on", ("carrot", "green plate")))[
        :2
    ]
    assert (right.goal, right.true) == (Goal("on", ("carrot", "green plate")), True)
    assert (wrong.goal.predicate, wrong.true) == ("on", False)
    right, wrong = captions(before, rng, about=Goal("open", ("drawer",)))[:2]
    assert (right.goal.predicate, wrong.goal.predicate) == ("closed", "open")
    # Nothing is on anything: there is no true counterpart.
    drawn = captions(before, rng, about=Goal("on", ("carrot", "green plate")))
    assert "on" not in {caption.goal.predicate for caption in drawn}


def test_a_small_scene_has_fewer_captions() -> None:
    state = scene(thing("can", 0.3, 0.0))
    drawn = captions(state, np.random.default_rng(0))
    assert {caption.goal.predicate for caption in drawn} == {"gripper_empty", "held"}
