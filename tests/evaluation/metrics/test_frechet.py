"""Distances of sets: exact where the answer is known, and refused where it would mislead."""

from __future__ import annotations

import numpy as np
import pytest

from aid_robot.errors import MetricError
from aid_robot.evaluation.metrics.frechet import FVD, KVD, frechet_distance, kernel_distance
from aid_robot.evaluation.metrics.metric import Frames, SetMetric


class MeanColors:
    """Features small enough to reason about: the mean colour of each third of a clip."""

    source = "mean colours"

    def __call__(self, clip: Frames) -> np.ndarray:
        thirds = np.array_split(clip.astype(np.float32), 3)
        return np.concatenate([third.mean((0, 1, 2)) for third in thirds])


def root(matrix: np.ndarray) -> np.ndarray:
    """Square root of a symmetric matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


@pytest.mark.parametrize(("n", "m", "width"), [(300, 200, 12), (9, 14, 40), (50, 8, 20)])
def test_frechet_is_the_textbook_formula(n: int, m: int, width: int) -> None:
    rng = np.random.default_rng(n)
    a = rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
    b = rng.normal(0.5, 2, (m, width))
    (ma, ca), (mb, cb) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (a, b))
    # tr (A B)^(1/2) = tr (A^(1/2) B A^(1/2))^(1/2)
    expected = ((ma - mb) ** 2).sum() + np.trace(ca + cb - 2 * root(root(ca) @ cb @ root(ca)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_a_set_with_itself_is_zero_however_small() -> None:
    features = np.random.default_rng(0).normal(50, 20, (5, 400))
    assert frechet_distance(features, features) < 1e-8
    # A shift adds its square length, and nothing else.
    assert frechet_distance(features, features + 3) == pytest.approx(9 * 400)


def test_kernel_distance_is_the_sum_over_pairs() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5, 7)), rng.normal(1, 1, (6, 7))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 7 + 1) ** 3)

    xx = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(6) for j in range(6) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(xx + yy - 2 * xy)


def test_kernel_distance_is_unbiased_where_frechet_is_not() -> None:
    rng = np.random.default_rng(2)
    draws = rng.normal(size=(400, 2, 20, 30))
    kernel = np.array([kernel_distance(*pair) for pair in draws])
    error = kernel.std() / len(kernel) ** 0.5
    assert abs(kernel.mean()) < 3 * error
    assert (kernel < 0).mean() > 0.3
    assert frechet_distance(*draws[0]) > 5


def test_two_halves_of_one_set() -> None:
    rng = np.random.default_rng(3)
    features = rng.gamma(2, 1, (200, 25))
    found = []
    for _ in range(200):
        order = rng.permutation(200)
        found.append(kernel_distance(features[order[:100]], features[order[100:]]))
    other = kernel_distance(features[:100], features[100:] * 1.3)
    assert abs(np.mean(found)) < 0.3 * np.std(found)
    assert other > 5 * np.std(found)


def test_too_few_clips_are_refused_unless_forced() -> None:
    rng = np.random.default_rng(4)
    few, more = rng.normal(size=(20, 9)), rng.normal(size=(200, 9))
    fvd = FVD(MeanColors())
    assert isinstance(fvd, SetMetric)
    with pytest.raises(MetricError, match=r"20 predicted and 200 true.*needs 128.*halves.*force"):
        fvd.distance(few, more)
    forced = FVD(MeanColors(), force=True).distance(few, more)
    assert forced == pytest.approx(frechet_distance(few, more))
    with pytest.raises(MetricError, match="it needs 2"):
        FVD(MeanColors(), force=True).distance(few[:1], more)
    assert KVD(MeanColors()).distance(more[:40], more[40:80]) < forced


def test_the_noise_floor_is_what_one_distribution_gives() -> None:
    features = np.random.default_rng(5).normal(size=(160, 9))
    fvd = FVD(MeanColors())
    mean, deviation = fvd.noise_floor(features)
    assert (mean, deviation) == fvd.noise_floor(features)
    fresh = np.random.default_rng(6).normal(size=(2, 80, 9))
    assert abs(frechet_distance(*fresh) - mean) < 5 * deviation


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.full((200, 9), np.nan), "200 of 200 predicted clips.*not finite"),
        (np.zeros((200, 8)), "8 wide, true ones 9"),
        (np.zeros(9), r"shape \(9,\)"),
    ],
)
def test_features_that_can_not_be_compared(bad: np.ndarray, said: str) -> None:
    true = np.random.default_rng(0).normal(size=(200, 9))
    with pytest.raises(MetricError, match=said):
        FVD(MeanColors()).distance(bad, true)


def test_features_come_clip_by_clip() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
    assert FVD(MeanColors()).features(clip).shape == (9,)
    broken = clip.astype(np.float64)
    broken[2, 0, 0, 0] = np.nan
    with pytest.raises(MetricError, match=r"float64 and 1 values that are not finite"):
        FVD(MeanColors()).features(broken)  # type: ignore[arg-type]
