"""Weights and pictures that the tests of metrics share."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from aid_robot.evaluation.metrics.weights import VARIABLE


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder of I3D's and LPIPS' weights; the test skips where there is none."""
    folder = os.environ.get(VARIABLE)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"weights of I3D and LPIPS: set {VARIABLE} to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def pictures() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Three times a smooth picture, and it noisy, blurred and shifted; (3, 64, 64, 3) each."""
    y, x = np.mgrid[:64, :64] / 64
    waves = np.stack([np.sin(6 * x + 2 * y), np.cos(9 * y * x), np.sin(12 * (x - y))], -1)
    clean = np.clip(127.5 + 100 * waves, 0, 255)
    noisy = clean + np.random.default_rng(7).normal(0, 20, clean.shape)
    changed = np.stack([noisy, cv2.GaussianBlur(clean, (0, 0), 3), np.roll(clean, 5, 1)])
    whole = np.clip(changed, 0, 255).round().astype(np.uint8)
    return clean.round().astype(np.uint8)[None].repeat(3, 0), whole


@pytest.fixture(scope="session")
def moving_clip() -> NDArray[np.uint8]:
    """A textured disc that crosses a table, 2 pixels a frame to the right, (10, 64, 64, 3)."""
    rng = np.random.default_rng(0)
    table = cv2.GaussianBlur(rng.uniform(90, 160, (64, 64, 3)), (0, 0), 1.5)
    skin = cv2.GaussianBlur(rng.uniform(0, 255, (64, 64, 3)), (0, 0), 1.5)
    y, x = np.mgrid[:64, :64]
    frames = []
    for step in range(10):
        disc = ((x - 18 - 2 * step) ** 2 + (y - 32) ** 2 < 14**2)[..., None]
        frames.append(np.where(disc, np.roll(skin, 2 * step, 1), table))
    return np.stack(frames).round().astype(np.uint8)
