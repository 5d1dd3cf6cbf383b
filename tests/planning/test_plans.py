"""Candidates and goals are read leniently and checked strictly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.errors import PlanError
from aid_robot.planning.goals import Goal
from aid_robot.planning.plans import Plan, check_plans

WORDS = st.text(st.characters(codec="utf-8", exclude_characters=">"), min_size=1).filter(str.strip)


def test_plans_are_texts_lists_or_plans() -> None:
    two = Plan(("open the drawer", "lift the can"))
    assert Plan.of("open the drawer -> lift  the can ") == two
    assert Plan.of(["open the drawer", "lift the can"]) == two
    assert Plan.of(two) is two
    assert str(two) == "open the drawer -> lift the can"
    assert Plan(("open the drawer",)).then(Plan.of("lift the can")) == two
    assert len(two) == 2


@given(st.lists(WORDS, min_size=1, max_size=4))
def test_a_plan_is_read_back_from_its_text(steps: list[str]) -> None:
    plan = Plan(tuple(steps))
    assert Plan.of(str(plan)) == plan


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ([], "no candidate plans"),
        ("lift the can", "expected a list"),
        (["lift the can", "Lift  the can"], "candidate 1 is the same as candidate 0"),
        (["lift the can", ""], "expected text"),
        (["open it -> "], "expected text"),
        ([["open it", 3]], "the step 3"),
        ([[]], "one instruction or more"),
        ([7], "one instruction or more"),
    ],
)
def test_bad_candidates_are_refused(plans: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_plans(plans)


IMAGE = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"text": " "}, "the goal's text is ' '"),
        ({"image": IMAGE[..., 0]}, r"shape \(4, 6\)"),
        ({"image": IMAGE / 255}, "dtype float64"),
        ({"mask": np.ones((4, 6), bool)}, "a mask but no image"),
        ({"image": IMAGE, "mask": np.ones((6, 4), bool)}, "as its image"),
        ({"image": IMAGE, "mask": np.zeros((4, 6), bool)}, "True somewhere"),
    ],
)
def test_bad_goals_are_refused(goal: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Goal(**goal)


def test_goals_say_what_they_are() -> None:
    assert str(Goal("the can is up")) == "the can is up"
    assert str(Goal("it", IMAGE, np.ones((4, 6), bool))) == "it and the goal image within its mask"
    assert str(Goal()) == "no goal"
