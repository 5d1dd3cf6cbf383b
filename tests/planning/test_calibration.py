"""Calibrated scores are rates, keep their order, and survive a file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.errors import CheckpointError, ScoreError
from aid_robot.planning.calibration import (
    Calibration,
    auroc,
    auroc_interval,
    calibration_error,
    choose_threshold,
    rank_correlation,
    reliability,
    wilson,
)
from aid_robot.planning.charts import draw_reliability
from aid_robot.planning.sweep import sweep


def overconfident(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose true rate is their square."""
    rng = np.random.default_rng(seed)
    scores = rng.random(count)
    return scores, rng.random(count) < scores**2


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_a_fit_mends_scores_that_promise_too_much(method) -> None:
    calibration = Calibration.fit(*overconfident(1500), method=method)
    scores, succeeded = overconfident(4000, seed=1)
    assert calibration_error(scores, succeeded) > 0.13
    assert calibration_error(calibration(scores), succeeded) < 0.05
    # Order is kept, strictly.
    assert (np.diff(calibration(np.linspace(0, 1, 200))) > 0).all()
    assert auroc(calibration(scores), succeeded) == pytest.approx(
        auroc(scores, succeeded), abs=0.01
    )


def test_calibrations_are_files(tmp_path: Path) -> None:
    fitted = Calibration.fit(*overconfident(300), facts={"predictor": "bundled"})
    fitted = fitted.abstaining_below(0.4)
    fitted.save(tmp_path / "calibration.json")
    loaded = Calibration.load(tmp_path / "calibration.json")
    assert loaded == fitted
    assert loaded.facts["predictor"] == "bundled"
    assert loaded.threshold == 0.4


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [0.5, 0.1], "rates": [0.1, 0.2]},
        {"rates": [0.3]},
        {"threshold": 2},
        {"method": "magic"},
        {"threshold": float("nan")},
        {"scores": "no"},
        {"more": 1},
    ],
)
def test_damaged_calibrations_are_refused(tmp_path: Path, change) -> None:
    path = tmp_path / "calibration.json"
    Calibration.fit(*overconfident(300)).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError):
        Calibration.load(path)


def test_too_few_outcomes_say_nothing() -> None:
    with pytest.raises(ScoreError, match="1 successes and 19 failures"):
        Calibration.fit(np.linspace(0, 1, 20), np.arange(20) == 3)
    with pytest.raises(ScoreError, match="nan"):
        Calibration.fit([0.1, float("nan")], [True, False])


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40),
)
def test_auroc_is_the_share_of_pairs_in_order(rows) -> None:
    scores, labels = np.array([r[0] / 5 for r in rows]), np.array([r[1] for r in rows])
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[labels] for b in scores[~labels]
    ]
    found = auroc(scores, labels)
    assert math.isnan(found) if not pairs else found == pytest.approx(np.mean(pairs))


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=30, max_size=60))
def test_isotonic_fits_rise_and_keep_the_mean(rows) -> None:
    scores, labels = np.array([r[0] / 8 for r in rows]), np.array([r[1] for r in rows])
    if min(labels.sum(), (~labels).sum()) < 5:
        return
    fitted = Calibration.fit(scores, labels, method="isotonic")
    assert (np.diff(fitted.rates) >= 0).all()
    # But for half an outcome of either kind that is added to each of the 9 blocks at most.
    assert np.mean(fitted(scores)) == pytest.approx(labels.mean(), abs=4.5 / len(rows) + 1e-5)


def test_intervals_are_of_clusters() -> None:
    scores, succeeded = overconfident(200)
    low, high = auroc_interval(scores, succeeded, draws=200)
    assert low < auroc(scores, succeeded) < high
    # Twice the same in a cluster is no more than once.
    names = [str(n) for n in range(200)] * 2
    twice = auroc_interval(np.tile(scores, 2), np.tile(succeeded, 2), names, draws=200)
    assert twice == pytest.approx((low, high), abs=0.01)


def test_ranks() -> None:
    assert rank_correlation([0.1, 0.2, 0.9], [1, 2, 3]) == pytest.approx(1)
    assert rank_correlation([0.1, 0.2, 0.9], [3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(rank_correlation([0.5, 0.5], [1, 2]))
    assert wilson(0, 10)[0] == 0
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_threshold_parts_reachable_from_unreachable() -> None:
    best = np.array([0.9, 0.8, 0.75, 0.4, 0.3, 0.2])
    assert 0.4 < choose_threshold(best, best > 0.5) < 0.75
    with pytest.raises(ScoreError, match="both kinds"):
        choose_threshold(best, np.ones(6, bool))


def test_reliability_is_drawn() -> None:
    scores, succeeded = overconfident(400)
    bins = reliability(scores, succeeded)
    assert sum(part.count for part in bins) == 400
    assert [part.score for part in bins] == sorted(part.score for part in bins)
    image = draw_reliability([("as scored", bins)])
    assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 10


def test_more_candidates_help_a_good_scorer_and_are_used_by_a_bad_one() -> None:
    rng = np.random.default_rng(0)
    reached = [np.arange(8) < 2 for _ in range(60)]
    good = [np.where(r, 0.9, 0.1)[:, None] + 0.05 * rng.random((8, 3)) for r in reached]
    bad = [1 - scores for scores in good]
    swept, fooled = sweep(good, reached, draws=10), sweep(bad, reached, draws=10)
    assert swept.chosen[1] == pytest.approx(swept.oracle)
    assert swept.chosen[3][-1] == 1
    assert fooled.chosen[1][-1] == 0
    assert fooled.chosen[1][0] == pytest.approx(fooled.random[0], abs=0.05)
    assert swept.draw().size[0] > 400
    # Numbers of candidates are compared on the same decisions.
    assert sweep([*good, good[0][:3]], [*reached, reached[0][:3]], draws=2).candidates == (1, 2, 3)
    with pytest.raises(ScoreError, match="outcomes"):
        sweep(good[:1], [np.ones(3, bool)])
