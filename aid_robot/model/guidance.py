"""Dual classifier-free guidance: one scale for the image, one for the instruction.

    e~ = e(z, 0, 0) + s_v (e(z, cV, 0) - e(z, 0, 0)) + s_t (e(z, cV, cT) - e(z, cV, 0))

Gathered by branch, that is a weighted sum whose weights add up to 1:

    e~ = (1 - s_v) e(z, 0, 0) + (s_v - s_t) e(z, cV, 0) + s_t e(z, cV, cT)

so that a branch of weight 0 need not be computed: s_v = 1 drops the first, s_v = s_t the second,
s_t = 0 the third. Because the weights add up to 1, guiding the x0-predictions, as done here, is
the same as guiding the network's outputs (and the drafts, where branches have one).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aid_robot.errors import SamplingError
from aid_robot.model.diffusion import Denoise

# Which conditions a branch sees: (image, text).
NULL, IMAGE, FULL = (False, False), (True, False), (True, True)
Branch = tuple[bool, bool]
BRANCHES: tuple[Branch, ...] = (NULL, IMAGE, FULL)


@dataclass(frozen=True)
class DualGuidance:
    """Scales of the dual guidance, and the noise levels at which it acts.

    `image_scale` may be a pair: it then grows linearly from the first frame to the last, as in
    SVD's own pipeline (1 to 3). Outside `interval` the conditional branch stands alone
    (Kynkäänniemi et al. 2024).
    """

    image_scale: float | tuple[float, float] = 1.0
    text_scale: float = 1.0
    interval: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self) -> None:
        values = (*self._image_ends(), self.text_scale)
        if not all(math.isfinite(value) and value >= 0 for value in values):
            raise SamplingError(
                f"guidance scales must be finite and not negative, got image "
                f"{self.image_scale!r} and text {self.text_scale!r}; 1 switches guidance off"
            )
        low, high = self.interval
        if not 0 <= low <= high:
            raise SamplingError(f"guidance interval {self.interval} must be 0 <= low <= high")

    def _image_ends(self) -> tuple[float, float]:
        scale = self.image_scale
        return scale if isinstance(scale, tuple) else (scale, scale)

    def weights(self, sigma: float, num_frames: int) -> dict[Branch, Tensor]:
        """Return the weight of every branch that counts at a noise level.

        Each weight is (num_frames, 1, 1, 1), to be multiplied with latents.
        """
        s_v = torch.linspace(*self._image_ends(), num_frames)
        s_t = torch.full((num_frames,), float(self.text_scale))
        if not self.interval[0] <= sigma <= self.interval[1]:
            s_v = torch.ones(num_frames)
            s_t = torch.full((num_frames,), 1.0 if self.text_scale > 0 else 0.0)
        weights = {NULL: 1 - s_v, IMAGE: s_v - s_t, FULL: s_t}
        return {
            branch: weight.reshape(-1, 1, 1, 1)
            for branch, weight in weights.items()
            if bool((weight != 0).any())
        }

    def branches(self, sigmas: Sequence[float], num_frames: int) -> list[Branch]:
        """List the branches that some noise level needs, in a fixed order."""
        needed: set[Branch] = set()
        for sigma in sigmas:
            if sigma > 0:
                needed.update(self.weights(sigma, num_frames))
        return [branch for branch in BRANCHES if branch in needed]


def pin(denoise: Denoise, known: Tensor) -> Denoise:
    """Hold the given frames at their own latents, as training left them out of its loss.

    Args:
        denoise: Predicts x0 of all frames.
        known: Latents of the K given frames in the space that is denoised, (B, K, C, h, w).
    """
    count = known.shape[1]

    def pinned(latents: Tensor, sigma: float) -> Tensor:
        return torch.cat([known, denoise(latents, sigma)[:, count:]], dim=1)

    return pinned


def guide(
    denoise_branches: Callable[[Tensor, float, list[Branch]], Tensor], guidance: DualGuidance
) -> Denoise:
    """Turn a denoiser of several branches into a guided one.

    Args:
        denoise_branches: `(latents (B, N, C, H, W), sigma, branches) -> (G, B, N, C, H, W)`.
        guidance: Scales and interval.
    """

    def guided(latents: Tensor, sigma: float) -> Tensor:
        weights = guidance.weights(sigma, latents.shape[1])
        predictions = denoise_branches(latents, sigma, list(weights))
        if len(weights) == 1:
            return predictions[0]
        stacked = torch.stack(list(weights.values())).to(predictions)  # (G, N, 1, 1, 1)
        return (stacked[:, None] * predictions).sum(0)

    return guided
