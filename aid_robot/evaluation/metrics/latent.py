"""Distance in the latents of a model's own VAE."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from aid_robot.errors import MetricError
from aid_robot.evaluation.metrics.metric import Better, FloatArray, Frames, check_pair
from aid_robot.model.latents import encode, to_pixels


class LatentL2:
    """Root mean squared difference of scaled latents, frame by frame.

    Depends on the VAE: compare such figures of one VAE only.
    """

    name, unit = "latent_l2", ""
    better: Better = "lower"
    description = "root mean squared difference of a frame's scaled VAE latents"

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self._factor = 2 ** (len(vae.config.block_out_channels) - 1)

    @torch.inference_mode()
    def __call__(
        self, predicted: Frames, true: Frames, *, given: Frames | None = None
    ) -> FloatArray:
        """Return the distance of each frame, (F,)."""
        predicted, true = check_pair(predicted, true)
        factor = self._factor
        if predicted.shape[1] % factor or predicted.shape[2] % factor:
            raise MetricError(
                f"latent_l2 takes frames whose sides are multiples of {factor}, the VAE's factor, "
                f"got {predicted.shape[1]}x{predicted.shape[2]}: judge at the model's own size"
            )
        difference = self._encode(predicted) - self._encode(true)
        return np.asarray(difference.square().mean((1, 2, 3)).sqrt().cpu().double().numpy())

    def _encode(self, frames: Frames) -> Tensor:
        pixels = to_pixels(torch.from_numpy(np.ascontiguousarray(frames)).to(self._vae.device))
        latents = encode(self._vae, pixels[None])[0]
        scale: float = self._vae.config.scaling_factor
        return latents.float() * scale
