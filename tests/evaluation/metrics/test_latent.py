"""Distances in a VAE's latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aid_robot.errors import MetricError
from aid_robot.evaluation.metrics.latent import LatentL2
from aid_robot.evaluation.metrics.metric import FrameMetric
from tests.tiny import tiny_model

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)


def test_it_is_the_root_mean_square_of_scaled_latents() -> None:
    vae = tiny_model().vae
    metric = LatentL2(vae)
    assert isinstance(metric, FrameMetric)
    np.testing.assert_array_equal(metric(FRAMES, FRAMES), 0)
    other = FRAMES[::-1].copy()
    with torch.inference_mode():
        ours, theirs = (
            vae.encode(torch.tensor(clip / 127.5 - 1).float().permute(0, 3, 1, 2))
            .latent_dist.mode()
            .numpy()
            for clip in (FRAMES, other)
        )
    expected = vae.config.scaling_factor * np.sqrt(((ours - theirs) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(metric(FRAMES, other), expected, rtol=1e-5)


def test_sides_fit_the_vae() -> None:
    with pytest.raises(MetricError, match="multiples of 2"):
        LatentL2(tiny_model().vae)(FRAMES[:, :31], FRAMES[:, :31])
