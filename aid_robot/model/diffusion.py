"""Elucidated diffusion (EDM, Karras et al. 2022) as pure functions, with SVD's parameters.

Sigmas are plain floats, so that no step waits for a device. A denoiser is any function
`(latents, sigma) -> x0-prediction`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from aid_robot.errors import SamplingError
from aid_robot.model.config import PredictionType, SamplingConfig

Denoise = Callable[[Tensor, float], Tensor]
OnStep = Callable[[int], None]
Sampler = Callable[[Denoise, Tensor, Sequence[float], OnStep | None], Tensor]


class Preconditioning(NamedTuple):
    """Scales around the network: `x0 = skip * x + out * network(in_ * x, noise)`.

    Each is a float, or a tensor of the noise levels' shape.
    """

    skip: Any
    out: Any
    in_: Any
    noise: Any

    @classmethod
    def at(
        cls, sigma: float | Tensor, prediction_type: PredictionType = "v_prediction"
    ) -> Preconditioning:
        """Return c_skip, c_out, c_in and c_noise at one noise level or several.

        "v_prediction" is as SVD was trained, at sigma_data = 1 (EDM, table 1); a network of
        "sample" puts out x0 itself.
        """
        norm = sigma * sigma + 1.0
        by_v = prediction_type == "v_prediction"
        return cls(
            skip=1.0 / norm if by_v else 0.0,
            out=-sigma / norm**0.5 if by_v else 1.0,
            in_=norm**-0.5,
            noise=0.25 * (sigma.log() if isinstance(sigma, Tensor) else math.log(sigma)),
        )


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """Return `steps` noise levels and a final 0 (EDM, equation 5)."""
    ramp = np.linspace(0.0, 1.0, steps) if steps > 1 else np.zeros(1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [*((high + ramp * (low - high)) ** rho).tolist(), 0.0]


# "Align Your Steps" (Sabour et al. 2024), 10 steps for SVD, without the final 0.
AYS_SVD_SIGMAS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034)


def ays_sigmas(steps: int) -> list[float]:
    """Return SVD's "Align Your Steps" noise levels and a final 0.

    Other counts than 10 interpolate the logarithms, as the paper proposes. The levels belong to
    SVD's own range (sigma_max = 700): for a model with another range use Karras' schedule.
    """
    known = np.log(AYS_SVD_SIGMAS)
    at = np.linspace(0.0, len(known) - 1, steps) if steps > 1 else np.zeros(1)
    return [*np.exp(np.interp(at, np.arange(len(known)), known)).tolist(), 0.0]


def make_sigmas(config: SamplingConfig, steps: int | None = None) -> list[float]:
    """Return the decreasing noise levels of a sampling config, ending in 0."""
    steps = config.steps if steps is None else steps
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise SamplingError(f"steps={steps!r} must be a whole number of at least 1")
    if config.schedule == "ays":
        return ays_sigmas(steps)
    return karras_sigmas(steps, config.sigma_min, config.sigma_max, config.rho)


def sample_euler(
    denoise: Denoise, latents: Tensor, sigmas: Sequence[float], on_step: OnStep | None = None
) -> Tensor:
    """Sample with Euler's method (EDM, algorithm 1 without its correction)."""
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        slope = (latents - denoise(latents, sigma)) / sigma
        latents = latents + slope * (following - sigma)
        if on_step is not None:
            on_step(step)
    return latents


def sample_heun(
    denoise: Denoise, latents: Tensor, sigmas: Sequence[float], on_step: OnStep | None = None
) -> Tensor:
    """Sample with Heun's second-order method (EDM, algorithm 1): two calls a step but the last."""
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        slope = (latents - denoise(latents, sigma)) / sigma
        proposal = latents + slope * (following - sigma)
        if following > 0:
            corrected = (proposal - denoise(proposal, following)) / following
            proposal = latents + 0.5 * (slope + corrected) * (following - sigma)
        latents = proposal
        if on_step is not None:
            on_step(step)
    return latents


def sample_dpmpp_2m(
    denoise: Denoise, latents: Tensor, sigmas: Sequence[float], on_step: OnStep | None = None
) -> Tensor:
    """Sample with DPM-Solver++(2M) (Lu et al. 2022): second order at one call a step."""
    previous: Tensor | None = None
    previous_width = 0.0
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        prediction = denoise(latents, sigma)
        if following == 0:
            latents = prediction
        else:
            width = math.log(sigma / following)
            target = prediction
            if previous is not None:
                weight = width / (2 * previous_width)
                target = (1 + weight) * prediction - weight * previous
            ratio = following / sigma
            latents = ratio * latents + (1 - ratio) * target
            previous, previous_width = prediction, width
        if on_step is not None:
            on_step(step)
    return latents


SAMPLERS: dict[str, Sampler] = {
    "euler": sample_euler,
    "heun": sample_heun,
    "dpmpp_2m": sample_dpmpp_2m,
}
