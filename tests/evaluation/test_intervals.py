"""Intervals over clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.evaluation.intervals import (
    jackknife_interval,
    mean_interval,
    mean_intervals,
    paired_interval,
)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 4)), min_size=2, max_size=30))
def test_an_interval_holds_its_mean(rows: list[tuple[float, int]]) -> None:
    values = [value for value, _ in rows]
    found = mean_interval(values, [str(cluster) for _, cluster in rows], draws=200)
    assert found.value == pytest.approx(np.mean(values), abs=1e-6)
    assert found.clips == len(rows)
    if found.clusters == 1:
        assert math.isnan(found.low)
    else:
        assert min(values) - 1e-6 <= found.low <= found.high <= max(values) + 1e-6


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        scenes = np.repeat(rng.normal(3.0, 1.0, 40), 3)
        clusters = [str(i // 3) for i in range(120)]
        found = mean_interval(scenes + rng.normal(0, 0.2, 120), clusters, draws=300)
        hits += found.low <= 3.0 <= found.high
    # 95 % of 200 is 190, with a standard deviation of 3.
    assert 180 <= hits <= 199


def test_clips_of_one_scene_count_as_one() -> None:
    rng = np.random.default_rng(1)
    values = np.repeat(rng.normal(0, 1, 10), 20)
    together = mean_interval(values, [str(i // 20) for i in range(200)])
    apart = mean_interval(values, [str(i) for i in range(200)])
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_missing_values_are_left_out() -> None:
    table = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, 7.0]])
    first, second = mean_intervals(table, ["a", "b", "c"])
    assert (first.value, first.clips, first.clusters) == (2.0, 2, 2)
    assert (second.value, second.clips) == (6.0, 2)


def test_pairs_are_narrower_than_what_they_are_of() -> None:
    rng = np.random.default_rng(2)
    first = rng.normal(20, 5, 50)
    second = first - 0.5 + rng.normal(0, 0.1, 50)
    clusters = [str(i) for i in range(50)]
    found = paired_interval(first, second, clusters)
    assert found.low < -0.5 < found.high < 0
    assert found.high - found.low < 0.1


def test_a_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(3).normal(0, 2, 20)
    found = jackknife_interval(lambda at: float(values[at].mean()), [str(i) for i in range(20)])
    error = values.std(ddof=1) / math.sqrt(20)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.value == pytest.approx(1.96 * error)
