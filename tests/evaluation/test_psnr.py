"""PSNR against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from aid_robot.evaluation.psnr import psnr


def test_known_values() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black) == float("inf")
    assert psnr(black + 255, black) == 0.0
    assert psnr(black + 16, black) == pytest.approx(20 * np.log10(255 / 16))


def test_one_frame_is_compared_with_all() -> None:
    truth = np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 20, np.uint8)])
    assert psnr(truth[0], truth) == pytest.approx(10 * np.log10(255**2 / 200))
