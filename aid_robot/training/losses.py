"""Losses as functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def edm_loss(
    prediction: Tensor,
    target: Tensor,
    sigma: Tensor,
    weight: Tensor,
    where: Tensor | None = None,
    snr_gamma: float | None = None,
) -> Tensor:
    """Return the EDM loss of an x0-prediction at sigma_data = 1, of each clip (B,).

    Args:
        prediction: (B, N, C, h, w).
        target: Same shape.
        sigma: (B,).
        weight: (B, N), 0 for frames that don't count.
        where: (B, N, 1, h, w), how much each place counts, 1 on average; None for all alike.
        snr_gamma: Greatest weight of a noise level, SNR + 1 otherwise; None sets no bound.
    """
    error = (prediction - target).square()
    if where is not None:
        error = error * where
    of_frame = error.mean(dim=(2, 3, 4))  # (B, N)
    per_clip = (of_frame * weight).sum(1) / weight.sum(1).clamp(min=1)
    level_weight = 1 + sigma**-2
    return (level_weight if snr_gamma is None else level_weight.clamp(max=snr_gamma)) * per_clip


def motion_weights(target: Tensor, strength: float) -> Tensor:
    """Weigh places by how much they change over the clip, 1 on average over it.

    Args:
        target: What is to be denoised, (B, N, C, h, w).
        strength: How much more a place counts whose change is the clip's mean.

    Returns:
        (B, N, 1, h, w).
    """
    change = (target - target[:, :1]).abs().mean(2, keepdim=True)
    mean = change.mean(dim=(1, 3, 4), keepdim=True)
    return (1 + strength * change / mean.clamp(min=1e-6)) / (1 + strength * (mean > 1e-6))


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


def contrastive_loss(
    images: Tensor, texts: Tensor, negatives: Tensor, same: Tensor, scale: Tensor
) -> Tensor:
    """Return CLIP's loss over B pictures and their texts, with a further false text for each.

    Args:
        images: (B, D), of length 1.
        texts: (B, D), of length 1, the true text of each picture.
        negatives: (B, D), of length 1, a text that is false of the picture of its row.
        same: (B, B) bool, where text j says the same as text i, so that it is no negative.
        scale: Inverse temperature.
    """
    logits = scale * images @ texts.T  # (B, B)
    own = torch.eye(len(images), dtype=torch.bool, device=images.device)
    logits = logits.masked_fill(same & ~own, -torch.inf)
    hard = scale * (images * negatives).sum(1, keepdim=True)  # (B, 1)
    labels = torch.arange(len(images), device=images.device)
    to_text = F.cross_entropy(torch.cat([logits, hard], dim=1), labels)
    return 0.5 * (to_text + F.cross_entropy(logits.T, labels))
