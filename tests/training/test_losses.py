"""Losses, and the noise of a step."""

from __future__ import annotations

import pytest
import torch

from aid_robot.training.losses import contrastive_loss, edm_loss, motion_weights
from aid_robot.training.noise import Noise


def test_edm_loss_is_the_v_loss() -> None:
    """The weight (s^2+1)/s^2 on x0 is what makes it the plain error of SVD's network output."""
    noise = Noise(0, 0, 3)
    target = noise.normal(4, 2, 5, 5)
    sigma = (noise.normal() * 1.6 + 0.7).exp()
    level = sigma.reshape(-1, 1, 1, 1, 1)
    noisy = target + level * noise.normal(4, 2, 5, 5)
    output = noise.normal(4, 2, 5, 5)
    norm = level**2 + 1
    prediction = noisy / norm - level / norm.sqrt() * output
    v = (noisy / norm - target) * norm.sqrt() / level
    expected = (output - v).square().mean(dim=(1, 2, 3, 4))
    loss = edm_loss(prediction, target, sigma, torch.ones(3, 4))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_no_noise_level_counts_more_than_the_bound() -> None:
    target, ones = torch.zeros(3, 2, 1, 4, 4), torch.ones(3, 2)
    sigma = torch.tensor([0.01, 0.5, 30.0])  # SNR + 1 = 10,001, 5 and about 1
    loss = edm_loss(target + 1, target, sigma, ones, snr_gamma=5)
    torch.testing.assert_close(loss, torch.tensor([5.0, 5.0, 1 + 1 / 900]))


def test_frames_of_weight_zero_do_not_count() -> None:
    target = torch.zeros(1, 3, 1, 2, 2)
    prediction = target.clone()
    prediction[:, 0] = 100.0
    weight = torch.tensor([[0.0, 1.0, 1.0]])
    assert edm_loss(prediction, target, torch.ones(1), weight) == 0


def test_motion_counts_more_where_it_is_and_one_on_average() -> None:
    target = torch.zeros(2, 4, 1, 8, 8)
    target[0, 2:, :, :2, :2] = 3.0
    weight = motion_weights(target, 4.0)
    torch.testing.assert_close(weight.mean(dim=(1, 3, 4)), torch.ones(2, 1))
    assert weight[0, 2, 0, 0, 0] > 5 * weight[0, 2, 0, 5, 5]
    torch.testing.assert_close(weight[1], torch.ones(4, 1, 8, 8))  # a still clip


def test_contrast_prefers_the_true_text_and_forgives_equal_ones() -> None:
    images, scale = torch.eye(3), torch.tensor(10.0)
    own = torch.eye(3, dtype=torch.bool)
    right = contrastive_loss(images, torch.eye(3), -torch.eye(3), own, scale)
    wrong = contrastive_loss(images, torch.eye(3).roll(1, 0), -torch.eye(3), own, scale)
    fooled = contrastive_loss(images, torch.eye(3), torch.eye(3), own, scale)
    assert right < fooled < wrong
    images[1] = images[0]
    texts = images.clone()
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    forgiving = contrastive_loss(images, texts, -images, same, scale)
    assert forgiving < 0.01 < contrastive_loss(images, texts, -images, own, scale)


def test_noise_depends_on_the_step_and_not_on_who_draws_it() -> None:
    whole = Noise(1, 5, 6)
    drawn, uniform, shared = whole.normal(2, 3), whole.uniform(), whole.shared()
    for rows in (slice(0, 6, 2), slice(1, 6, 2), slice(3, 6)):
        part = Noise(1, 5, 6, rows)
        assert part.normal(2, 3).equal(drawn[rows])
        assert part.uniform().equal(uniform[rows])
        assert part.shared() == shared
    assert not Noise(1, 6, 6).normal(2, 3).equal(drawn)
    assert not Noise(2, 5, 6).normal(2, 3).equal(drawn)


def test_sigmas_follow_the_distribution() -> None:
    logs = Noise(0, 0, 20000).normal() * 1.6 + 0.7
    assert logs.mean().item() == pytest.approx(0.7, abs=0.05)
    assert logs.std().item() == pytest.approx(1.6, abs=0.05)


def test_a_step_s_clips_share_the_noise_levels_evenly() -> None:
    drawn = torch.cat([Noise(0, step, 4).spread() for step in range(5000)])
    places = drawn.unflatten(0, (5000, 4))
    assert ((places * 4).floor() == torch.arange(4)).all(), "each has a quarter of its own"
    logs = torch.special.ndtri(drawn)
    assert logs.mean().item() == pytest.approx(0, abs=0.05)
    assert logs.std().item() == pytest.approx(1, abs=0.05)
    assert Noise(0, 3, 4, slice(1, 3)).spread().equal(Noise(0, 3, 4).spread()[1:3])
