"""LPIPS: how different two pictures look to AlexNet (Zhang et al. 2018, version 0.1)."""

from __future__ import annotations

import os
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aid_robot.errors import MetricError
from aid_robot.evaluation.metrics.metric import Better, FloatArray, Frames, check_pair
from aid_robot.evaluation.metrics.weights import LPIPS_FILE, find_weights, load_weights
from aid_robot.model.latents import to_pixels
from aid_robot.runtime.denoiser import choose_device

# Channels and kernel of AlexNet's five convolutions, with stride and padding.
_LAYERS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
_POOLED_BEFORE = (1, 2)
# The statistics of ImageNet in [-1, 1] RGB, as LPIPS rounds them.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Below this side nothing is left after the second pooling.
SMALLEST = 31
_BATCH = 32


class LPIPS:
    """Learned perceptual image patch similarity, 0 for equal pictures."""

    name, unit = "lpips", ""
    better: Better = "lower"
    description = "perceptual distance of a frame (LPIPS 0.1, AlexNet)"

    def __init__(self, weights: dict[str, Tensor], device: torch.device) -> None:
        self._weights = {key: tensor.to(device) for key, tensor in weights.items()}
        self.device = device

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, device: str = "auto") -> Self:
        """Load the weights from a file, folder or hub id, or from `$AID_ROBOT_WEIGHTS`."""
        file = find_weights(LPIPS_FILE, path)
        return cls(load_weights(file, _shapes()), choose_device(device))

    def __call__(
        self, predicted: Frames, true: Frames, *, given: Frames | None = None
    ) -> FloatArray:
        """Return the distance of each frame, (F,)."""
        predicted, true = check_pair(predicted, true)
        return self.distance(predicted, true).double().numpy()

    @torch.inference_mode()
    def distance(
        self, first: Tensor | NDArray[np.uint8], second: Tensor | NDArray[np.uint8]
    ) -> Tensor:
        """Return the distances of n pairs of pictures, (n,) float32 on the CPU.

        Each side is (n, H, W, 3) uint8, or (n, 3, H, W) float in [-1, 1]; one of them may have
        n = 1, and is then compared with every picture of the other.
        """
        a, b = _to_pixels(first), _to_pixels(second)
        if a.shape[1:] != b.shape[1:] or (len(a) != len(b) and 1 not in (len(a), len(b))):
            raise MetricError(
                f"LPIPS compares pictures of {tuple(a.shape)} with {tuple(b.shape)} (n, 3, H, W), "
                "expected one size, and the same number or a single one"
            )
        if min(a.shape[2:]) < SMALLEST:
            raise MetricError(
                f"LPIPS needs pictures of at least {SMALLEST}x{SMALLEST} pixels, got "
                f"{a.shape[2]}x{a.shape[3]}: leave lpips out at this size"
            )
        features = [self._features(b)] if len(b) == 1 else None
        parts = []
        for start in range(0, max(len(a), len(b)), _BATCH):
            window = slice(start, start + _BATCH)
            of_a = self._features(a[window] if len(a) > 1 else a)
            of_b = features[0] if features else self._features(b[window])
            parts.append(self._compare(of_a, of_b))
        return torch.cat(parts).cpu()

    def _features(self, pixels: Tensor) -> list[Tensor]:
        """Return the unit-length activations of the five layers."""
        x = pixels.to(self.device, torch.float32)
        x = (x - x.new_tensor(_SHIFT).reshape(3, 1, 1)) / x.new_tensor(_SCALE).reshape(3, 1, 1)
        features = []
        for index, (_, _, stride, padding) in enumerate(_LAYERS):
            if index in _POOLED_BEFORE:
                x = F.max_pool2d(x, 3, 2)
            weight, bias = (self._weights[f"conv{index}.{part}"] for part in ("weight", "bias"))
            x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            features.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return features

    def _compare(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        total = torch.zeros((), device=self.device)
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            weighted = F.conv2d((a - b).square(), self._weights[f"lin{index}.weight"])
            total = total + weighted.mean((1, 2, 3))
        return total


def _to_pixels(pictures: Tensor | NDArray[np.uint8]) -> Tensor:
    """Turn either form into (n, 3, H, W) float in [-1, 1]."""
    if isinstance(pictures, np.ndarray):
        pictures = torch.from_numpy(np.ascontiguousarray(pictures))
    if pictures.dtype == torch.uint8 and pictures.ndim == 4 and pictures.shape[-1] == 3:
        return to_pixels(pictures)
    if pictures.is_floating_point() and pictures.ndim == 4 and pictures.shape[1] == 3:
        if not torch.isfinite(pictures).all():
            raise MetricError("LPIPS got pictures with values that are not finite: mend them first")
        if float(pictures.abs().max()) > 1.01:
            raise MetricError(
                f"LPIPS got float pictures from {float(pictures.min()):g} to "
                f"{float(pictures.max()):g}, expected [-1, 1]: scale them, or hand over uint8"
            )
        return pictures
    raise MetricError(
        f"LPIPS got pictures of dtype {pictures.dtype} and shape {tuple(pictures.shape)}, expected "
        "(n, H, W, 3) uint8 or (n, 3, H, W) float in [-1, 1]"
    )


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    before = 3
    for index, (channels, kernel, _, _) in enumerate(_LAYERS):
        shapes[f"conv{index}.weight"] = (channels, before, kernel, kernel)
        shapes[f"conv{index}.bias"] = (channels,)
        shapes[f"lin{index}.weight"] = (1, channels, 1, 1)
        before = channels
    return shapes
