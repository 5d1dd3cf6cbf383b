"""Losses as functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def draw_sigmas(
    count: int, generator: torch.Generator, p_mean: float = 0.7, p_std: float = 1.6
) -> Tensor:
    """Draw noise levels, ln sigma ~ N(p_mean, p_std^2) (EDM, table 1)."""
    return (torch.randn(count, generator=generator) * p_std + p_mean).exp()


def edm_loss(prediction: Tensor, target: Tensor, sigma: Tensor, weight: Tensor) -> Tensor:
    """Return the EDM loss of an x0-prediction at sigma_data = 1.

    Args:
        prediction: (B, N, C, h, w).
        target: Same shape.
        sigma: (B,).
        weight: (B, N), 0 for frames that don't count.
    """
    error = (prediction - target).square().mean(dim=(2, 3, 4))  # (B, N)
    per_clip = (error * weight).sum(1) / weight.sum(1).clamp(min=1)
    level = (sigma**2 + 1) / sigma**2
    return (level * per_clip).mean()


def vae_loss(reconstruction: Tensor, pixels: Tensor, kl: Tensor, kl_weight: float = 1e-4) -> Tensor:
    """Return absolute and squared error, error of the edges, and the weighted divergence.

    Args:
        reconstruction: (B, 3, H, W) in about [-1, 1].
        pixels: Same shape.
        kl: Divergence from the unit Gaussian by element, any shape.
        kl_weight: Its weight.
    """
    edges = F.l1_loss(reconstruction.diff(dim=-1), pixels.diff(dim=-1)) + F.l1_loss(
        reconstruction.diff(dim=-2), pixels.diff(dim=-2)
    )
    error = F.l1_loss(reconstruction, pixels) + F.mse_loss(reconstruction, pixels)
    return error + 0.5 * edges + kl_weight * kl.mean()
