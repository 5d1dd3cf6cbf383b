"""LPIPS is that of its authors' package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aid_robot.errors import MetricError, WeightsNotFoundError
from aid_robot.evaluation.metrics.lpips import LPIPS, SMALLEST
from aid_robot.evaluation.metrics.metric import FrameMetric
from aid_robot.evaluation.metrics.pic import PIC

Pair = tuple[np.ndarray, np.ndarray]
# By the package lpips 0.1.4, LPIPS(net="alex"), with the same AlexNet.
OF_THE_PACKAGE = [0.3197735846042633, 0.018882552161812782, 0.10098917782306671]


@pytest.fixture(scope="module")
def metric(weights_dir: Path) -> LPIPS:
    return LPIPS.load(weights_dir, "cpu")


def test_values_are_those_of_the_package(metric: LPIPS, pictures: Pair) -> None:
    clean, changed = pictures
    assert isinstance(metric, FrameMetric)
    np.testing.assert_allclose(metric(changed, clean), OF_THE_PACKAGE, atol=1e-6)
    np.testing.assert_allclose(metric(clean, changed), OF_THE_PACKAGE, atol=1e-6)
    np.testing.assert_array_equal(metric(clean, clean), 0)


def test_batches_of_tensors_and_of_frames(metric: LPIPS, pictures: Pair) -> None:
    clean, changed = pictures
    expected = metric.distance(changed, clean)
    assert expected.shape == (3,)
    # One goal image against many.
    torch.testing.assert_close(metric.distance(changed, clean[:1]), expected)
    torch.testing.assert_close(metric.distance(clean[:1], changed), expected)
    tensors = [torch.from_numpy(x).permute(0, 3, 1, 2) / 127.5 - 1 for x in (changed, clean)]
    torch.testing.assert_close(metric.distance(*tensors), expected)
    many = np.concatenate([changed] * 15)  # more than are computed at once
    torch.testing.assert_close(metric.distance(many, clean[:1]), expected.repeat(15))


def test_it_grows_with_noise_and_blur(metric: LPIPS, pictures: Pair) -> None:
    clean = pictures[0][:1]
    noise = np.random.default_rng(0).normal(size=clean.shape)
    noisy = [np.clip(clean + s * noise, 0, 255).astype(np.uint8) for s in (5, 15, 40)]
    found = metric.distance(np.concatenate(noisy), clean).numpy()
    assert (np.diff([0, *found]) > 0).all()


def test_bad_input_is_named(metric: LPIPS, pictures: Pair) -> None:
    clean, _ = pictures
    small = clean[:, : SMALLEST - 1]
    with pytest.raises(MetricError, match="at least 31x31 pixels, got 30x64"):
        metric(small, small)
    assert metric(clean[:, :SMALLEST, :SMALLEST], clean[:, 9:40, 9:40]).shape == (3,)
    with pytest.raises(MetricError, match="one size"):
        metric.distance(clean, clean[:2])
    with pytest.raises(MetricError, match=r"expected \[-1, 1\]"):
        metric.distance(torch.full((1, 3, 64, 64), 200.0), clean)
    with pytest.raises(MetricError, match="not finite"):
        metric.distance(torch.full((1, 3, 64, 64), torch.nan), clean)
    with pytest.raises(MetricError, match=r"\(64, 64, 3\)"):
        metric.distance(clean[0], clean)


def test_missing_weights_name_file_and_variable(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"lpips_alex.*PerceptualSimilarity"):
        LPIPS.load(tmp_path)


def test_pic_is_highest_for_a_still_picture(metric: LPIPS, pictures: Pair) -> None:
    clean, changed = pictures
    pic = PIC(metric)
    assert isinstance(pic, FrameMetric)
    given = np.concatenate([changed[1:2], clean[:1]])  # the last one counts
    np.testing.assert_allclose(pic(clean, changed, given=given), 1, atol=1e-6)
    np.testing.assert_allclose(
        pic(changed, clean, given=given), 1 - metric(changed, clean), atol=1e-6
    )
    with pytest.raises(MetricError, match="needs the given frames"):
        pic(clean, clean)
