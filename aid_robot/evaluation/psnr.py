"""Peak signal-to-noise ratio of predicted frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def psnr(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the PSNR in dB of the mean squared error over all frames; infinity where equal.

    Pooled over frames, a clip that holds still for a while has a finite value.

    Args:
        predicted: (..., H, W, 3) uint8, broadcast against the truth.
        truth: (..., H, W, 3) uint8.
    """
    error = float(np.mean((predicted.astype(np.float64) - truth) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))
