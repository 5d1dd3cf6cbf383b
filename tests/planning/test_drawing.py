"""A decision's picture has a row a plan, and one size for all decisions where that is asked."""

from __future__ import annotations

import numpy as np
import pytest

from aid_robot.clip_drawing import GIVEN, PREDICTED
from aid_robot.errors import ConfigError
from aid_robot.planning.choose import decide
from aid_robot.planning.decision import Decision
from aid_robot.planning.drawing import CHOSEN, beside, draw_decision, draw_waiting, panel_size
from aid_robot.planning.goals import Goal
from tests.planning.dots import DotPredictor, SideScorer, draw


def decision(goal: Goal | None = None, threshold: float | None = None) -> Decision:
    plans = ["go left", "go right", "stay -> go up"]
    wanted = goal or Goal("go right")
    return decide(
        *(DotPredictor(), draw(16, 16), plans, wanted, SideScorer()),
        threshold=threshold,
        num_samples=2,
        seed=0,
    )


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((image == colour).all(axis=-1).sum())


def test_rows_are_ranked_and_the_chosen_is_marked() -> None:
    drawn = np.asarray(draw_decision(decision()))
    step = 96 + 2 * 2 + 4
    assert drawn.shape[1] > 6 * step
    # The chosen plan's row comes first; others have orange borders.
    lower = drawn[-2 * step :]
    upper = drawn[: -2 * step]
    assert count(upper, CHOSEN) > 1000
    assert count(lower, CHOSEN) == 0
    assert count(lower, PREDICTED) > 2 * 5 * 96
    assert count(upper, PREDICTED) == 0
    assert count(drawn, GIVEN) > 3 * 96
    abstained = np.asarray(draw_decision(decision(threshold=0.99)))
    assert count(abstained, CHOSEN) == 0


def test_goal_image_stands_above() -> None:
    image = np.full((32, 32, 3), (7, 200, 9), np.uint8)
    plain = draw_decision(decision())
    drawn = draw_decision(decision(Goal("go right", image)))
    assert drawn.height > plain.height
    assert count(np.asarray(drawn), (7, 200, 9)) == 96 * 96


@pytest.mark.parametrize("with_image", [False, True])
def test_size_is_known_before(with_image: bool) -> None:
    image = np.zeros((32, 32, 3), np.uint8) if with_image else None
    drawn = draw_decision(decision(Goal("go right", image)), columns=5, rows=6, tile=(70, 50))
    size = panel_size((70, 50), columns=5, rows=6, with_image=with_image)
    assert drawn.size == size
    waiting = draw_waiting(size, "nothing yet")
    assert waiting.size == size
    frame = np.zeros((64, 48, 3), np.uint8)
    assert beside(frame, drawn).shape == beside(frame, waiting).shape
    assert all(side % 2 == 0 for side in beside(frame, drawn).shape[:2])


def test_one_column_is_too_few() -> None:
    with pytest.raises(ConfigError, match="columns is 1"):
        draw_decision(decision(), columns=1)
