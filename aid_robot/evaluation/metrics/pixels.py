"""PSNR and SSIM, frame by frame."""

from __future__ import annotations

import cv2
import numpy as np

from aid_robot.errors import MetricError
from aid_robot.evaluation.metrics.metric import Better, FloatArray, Frames, check_pair
from aid_robot.evaluation.psnr import psnr

# That of rounding to whole levels, whose mean squared error is 1/12.
HIGHEST = float(10 * np.log10(255.0**2 * 12))
_WINDOW = 11


class PSNR:
    """Peak signal-to-noise ratio of each frame.

    Errors below those of 8-bit rounding count as such: a perfect frame has 58.92 dB, and a mean
    over frames is finite.
    """

    name, unit = "psnr", "dB"
    better: Better = "higher"
    description = "peak signal-to-noise ratio of a frame, at most 58.92 dB (8-bit rounding)"

    def __call__(
        self, predicted: Frames, true: Frames, *, given: Frames | None = None
    ) -> FloatArray:
        """Return the PSNR of each frame, (F,)."""
        predicted, true = check_pair(predicted, true)
        pairs = zip(predicted, true, strict=True)
        return np.array([min(psnr(frame, truth), HIGHEST) for frame, truth in pairs])


class SSIM:
    """Structural similarity of each frame (Wang et al. 2004), as scikit-image computes it.

    Gaussian window of 11x11 with sigma 1.5, K1 = 0.01, K2 = 0.03, borders left out, mean over RGB.
    """

    name, unit = "ssim", ""
    better: Better = "higher"
    description = "structural similarity of a frame (Gaussian window, sigma 1.5, mean over RGB)"

    def __call__(
        self, predicted: Frames, true: Frames, *, given: Frames | None = None
    ) -> FloatArray:
        """Return the SSIM of each frame, (F,)."""
        predicted, true = check_pair(predicted, true)
        if min(predicted.shape[1:3]) < _WINDOW:
            raise MetricError(
                f"ssim needs frames of at least {_WINDOW}x{_WINDOW} pixels, got "
                f"{predicted.shape[1]}x{predicted.shape[2]}: leave it out at this size"
            )
        return np.array([_ssim(x, y) for x, y in zip(predicted, true, strict=True)])


def _ssim(first: Frames, second: Frames) -> float:
    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = _local(x), _local(y)
    variances = _local(x * x) - mean_x**2 + _local(y * y) - mean_y**2
    covariance = _local(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = (2 * covariance + c2) / (variances + c2)
    return float(((2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * structure).mean())


def _local(image: FloatArray) -> FloatArray:
    """Average over the window, where it fits into the frame."""
    edge = _WINDOW // 2
    blurred = cv2.GaussianBlur(image, (_WINDOW, _WINDOW), 1.5)
    return np.asarray(blurred[edge:-edge, edge:-edge])
