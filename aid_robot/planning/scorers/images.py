"""Closeness of the imagined end to a picture of the goal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aid_robot.clip import Foresight
from aid_robot.model.latents import encode, to_clip_pixels, to_pixels
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers.scorer import (
    FloatArray,
    Frames,
    check_scores,
    final,
    goal_image,
    goal_mask,
    observed,
)

# Distances below this are those of equal pictures.
_SAME = 1e-6


class Distance(Protocol):
    """How far pictures are from one picture."""

    @property
    def name(self) -> str:
        """What it compares by."""

    def __call__(self, pictures: Frames, goal: Frames, mask: Any) -> FloatArray:
        """Return distances (n,) of (n, H, W, 3) from (H, W, 3), within a mask (H, W) or None."""


class GoalImage:
    """Score how much nearer to the goal's picture a future ends than it began.

    The score is before / (before + after) of the distances: 1 is the very picture, 1/2 no nearer
    than now, less is farther. With a mask only what is in it counts.
    """

    def __init__(self, distance: Distance) -> None:
        self.distance = distance
        self.name = f"goal image ({distance.name})"

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        after = final(foresights)
        size = (after.shape[2], after.shape[3])
        picture, mask = goal_image(self.name, goal, size), goal_mask(goal, size)
        now = observed(foresights)[0, :1]
        pictures = np.concatenate([now, after.reshape(-1, *after.shape[2:])])
        distances = self.distance(pictures, picture, mask) + _SAME
        scores = distances[0] / (distances[0] + distances[1:])
        return check_scores(self.name, scores.reshape(after.shape[:2]), foresights)


class LatentDistance:
    """Root mean square between the latents of a model's VAE."""

    name = "latent"

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    @torch.inference_mode()
    def __call__(self, pictures: Frames, goal: Frames, mask: Any) -> FloatArray:
        pixels = to_pixels(torch.from_numpy(np.concatenate([goal[None], pictures])))
        latents = encode(self.vae, pixels[:, None].to(self.vae.device)).float()[:, 0]
        squared = (latents[1:] - latents[:1]).square().mean(1)  # (n, h, w)
        return _masked_mean(squared, mask).sqrt().double().cpu().numpy()


class LpipsDistance:
    """LPIPS; weights from a path, else from `$AID_ROBOT_WEIGHTS`."""

    name = "lpips"

    def __init__(self, weights: str | os.PathLike[str] | None = None, device: str = "auto") -> None:
        from aid_robot.evaluation.metrics.lpips import LPIPS

        self.lpips = LPIPS.load(weights, device)

    def __call__(self, pictures: Frames, goal: Frames, mask: Any) -> FloatArray:
        if mask is not None:  # LPIPS has no mask of its own: outside, both show the goal
            pictures = np.where(mask[..., None], pictures, goal)
        return self.lpips.distance(pictures, goal[None]).double().numpy()


class ClipImageDistance:
    """One minus the cosine of the embeddings of a CLIP image tower, such as a model's own."""

    name = "clip"

    def __init__(self, image_encoder: Any) -> None:
        self.image_encoder = image_encoder

    @torch.inference_mode()
    def __call__(self, pictures: Frames, goal: Frames, mask: Any) -> FloatArray:
        if mask is not None:
            pictures = np.where(mask[..., None], pictures, goal)
        tower = self.image_encoder
        pixels = clip_pixels(np.concatenate([goal[None], pictures]), tower)
        embeddings = F.normalize(tower(pixels).image_embeds.float(), dim=1)  # (1 + n, D)
        return (1 - embeddings[1:] @ embeddings[0]).clamp(min=0).double().cpu().numpy()


def clip_pixels(pictures: Frames, vision: Any) -> Tensor:
    """Prepare (n, H, W, 3) pictures for one of transformers' CLIP vision towers."""
    pixels = to_pixels(torch.from_numpy(pictures)).to(vision.device)
    return to_clip_pixels(pixels, vision.config.image_size).to(vision.dtype)


def _masked_mean(values: Tensor, mask: Any) -> Tensor:
    """Average (n, h, w) over a mask (H, W) of pixels, None for all of it."""
    if mask is None:
        return values.mean((1, 2))
    weight = torch.from_numpy(mask).to(values)[None, None]
    weight = F.adaptive_avg_pool2d(weight, (values.shape[1], values.shape[2]))[0]
    return (values * weight).sum((1, 2)) / weight.sum()
