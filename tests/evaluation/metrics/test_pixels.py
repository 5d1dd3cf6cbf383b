"""PSNR and SSIM are those of scikit-image, and refuse what they can't judge."""

from __future__ import annotations

import numpy as np
import pytest

from aid_robot.errors import MetricError
from aid_robot.evaluation.metrics.metric import FrameMetric
from aid_robot.evaluation.metrics.pixels import PSNR, SSIM
from aid_robot.evaluation.psnr import psnr

Pair = tuple[np.ndarray, np.ndarray]
# By scikit-image 0.26.0: peak_signal_noise_ratio(data_range=255) and structural_similarity(
# data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False).
PSNR_OF_SKIMAGE = [22.290075668443595, 26.391889916479414, 14.209205808776705]
SSIM_OF_SKIMAGE = [0.5205527384010193, 0.9732471020064669, 0.6356179821930447]


def test_values_are_those_of_scikit_image(pictures: Pair) -> None:
    np.testing.assert_allclose(PSNR()(*pictures), PSNR_OF_SKIMAGE, atol=1e-9)
    np.testing.assert_allclose(SSIM()(*pictures), SSIM_OF_SKIMAGE, atol=1e-6)


def test_a_perfect_frame_has_a_finite_value(pictures: Pair) -> None:
    clean, changed = pictures
    half = np.stack([clean[0], changed[0]])
    found = PSNR()(half, clean[:2])
    assert found[0] == pytest.approx(58.9226, abs=1e-4)
    assert found[1] == pytest.approx(psnr(changed[0], clean[0]))
    np.testing.assert_allclose(SSIM()(clean, clean), 1)


def test_they_fall_as_noise_grows(pictures: Pair) -> None:
    clean = pictures[0][0]
    noise = np.random.default_rng(0).normal(size=clean.shape)
    clip = np.stack([clean + strength * noise for strength in (2, 8, 20, 50)])
    clip = np.clip(clip, 0, 255).round().astype(np.uint8)
    for metric in (PSNR(), SSIM()):
        assert isinstance(metric, FrameMetric)
        found = metric(clip, np.repeat(clean[None], 4, axis=0))
        assert (np.diff(found) < 0).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: np.where(x > 200, np.nan, x / 255), r"float64 and \d+ values that are not fin"),
        (lambda x: x.astype(np.float32), "dtype float32, expected uint8"),
        (lambda x: x[:, :32], r"\(3, 32, 64, 3\), the truth \(3, 64, 64, 3\)"),
        (lambda x: x[:2], "compare the same frames"),
        (lambda x: x[0], r"expected \(F, H, W, 3\)"),
        (lambda x: x[:0], "none of them 0"),
        (lambda x: x.tolist(), "a list, expected an array"),
    ],
)
@pytest.mark.parametrize("metric", [PSNR(), SSIM()])
def test_bad_input_is_named(pictures: Pair, metric: FrameMetric, change: object, said: str) -> None:
    clean, _ = pictures
    with pytest.raises(MetricError, match=said):
        metric(change(clean), clean)  # type: ignore[operator]
