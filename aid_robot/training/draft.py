"""How a draft is trained: few frames of a step, by their squared error."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from aid_robot.model.aid import AIDModel
from aid_robot.model.config import AIDConfig
from aid_robot.model.draft import DraftHead
from aid_robot.training.noise import Noise


def teaching_head(model: AIDModel) -> DraftHead | None:
    """Return a new head that only teaches, or None where the model has its own."""
    if model.condition_encoder.draft is not None:
        return None
    _, channels, height, width = model.latent_shape
    width_of_context, layers = model.unet.config.cross_attention_dim, model.config.draft_layers
    return DraftHead.sized(width_of_context, channels, (height, width), layers)


def drafted_frames(noise: Noise, config: AIDConfig) -> list[int]:
    """Draw which frames a step drafts: one of each half of the future, since drawing is dear."""
    first, end = config.num_conditioning_frames, config.num_frames
    middle = (first + end) // 2
    return [
        low + int(noise.shared() * (high - low))
        for low, high in ((first, middle), (middle, end))
        if low < high
    ]


def draft_loss(
    head: DraftHead,
    model: AIDModel,
    context: Tensor,
    given: Tensor,
    latents: Tensor,
    weight: Tensor,
) -> Tensor:
    """Return the squared error of the draft of each clip, (B,), in the F frames that are drawn.

    Args:
        head: Draws the clips.
        model: Says what is denoised.
        context: Tokens of each of these frames, (B, F, T, D).
        given: Unscaled latents of the given frames, (B, K, C, h, w).
        latents: Unscaled latents of the frames, (B, F, C, h, w).
        weight: Which frames count, (B, F).
    """
    target = model.to_diffusion(latents, given)
    drawn = head(context, given[:, -1] * model.vae.config.scaling_factor)
    error = F.mse_loss(drawn.float(), target, reduction="none").mean(dim=(2, 3, 4))
    return (error * weight).sum(1) / weight.sum(1).clamp(min=1)
