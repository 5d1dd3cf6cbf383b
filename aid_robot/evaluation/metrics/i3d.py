"""I3D, the network that FVD is measured by (Carreira & Zisserman 2017; Kinetics-400, RGB).

The computation of DeepMind's `kinetics-i3d`: TensorFlow's SAME padding, batch norm with epsilon
1e-3 (folded into the convolutions here), logits averaged over time. Frames are resized and scaled
as in Google's reference implementation of FVD (Unterthiner et al. 2018).
"""

from __future__ import annotations

import os
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aid_robot.errors import MetricError
from aid_robot.evaluation.metrics.metric import Frames, check_clip
from aid_robot.evaluation.metrics.weights import I3D_FILE, find_weights, load_weights
from aid_robot.runtime.denoiser import choose_device

SIZE = 224
# Of fewer frames, one is left after the three temporal strides, and the last pooling takes two.
FEWEST_FRAMES = 9
_EPSILON = 1e-3
_CLASSES = 400
# Inception modules with the channels of their branches b0, b1a, b1b, b2a, b2b, b3b.
_STEM = (("Conv3d_1a_7x7", 64, 7), ("Conv3d_2b_1x1", 64, 1), ("Conv3d_2c_3x3", 192, 3))
_MIXED = (
    ("Mixed_3b", (64, 96, 128, 16, 32, 32)),
    ("Mixed_3c", (128, 128, 192, 32, 96, 64)),
    ("Mixed_4b", (192, 96, 208, 16, 48, 64)),
    ("Mixed_4c", (160, 112, 224, 24, 64, 64)),
    ("Mixed_4d", (128, 128, 256, 24, 64, 64)),
    ("Mixed_4e", (112, 144, 288, 32, 64, 64)),
    ("Mixed_4f", (256, 160, 320, 32, 128, 128)),
    ("Mixed_5b", (256, 160, 320, 32, 128, 128)),
    ("Mixed_5c", (384, 192, 384, 48, 128, 128)),
)
# Max pooling (kernel and stride over time and space) before a module.
_POOLS = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


class I3D:
    """Logits of Kinetics-400 as features of a clip."""

    source = "I3D, Kinetics-400 logits"

    def __init__(self, weights: dict[str, Tensor], device: torch.device) -> None:
        self.device = device
        self._weights = {key: value.to(device) for key, value in _fold(weights).items()}

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, device: str = "auto") -> Self:
        """Load the weights from a file, folder or hub id, or from `$AID_ROBOT_WEIGHTS`."""
        file = find_weights(I3D_FILE, path)
        return cls(load_weights(file, _shapes()), choose_device(device))

    def __call__(self, clip: Frames) -> NDArray[np.float32]:
        """Return the features of one clip (N, H, W, 3) uint8, (400,)."""
        clip = check_clip(clip)
        video = resize_bilinear(torch.from_numpy(np.ascontiguousarray(clip)).to(self.device))
        video = (2.0 * video / 255.0 - 1.0).permute(3, 0, 1, 2)  # (3, N, 224, 224)
        return self.logits(video[None])[0].cpu().numpy()

    @torch.inference_mode()
    def logits(self, videos: Tensor) -> Tensor:
        """Return the logits of videos (B, 3, T, 224, 224) in [-1, 1], averaged over time, (B, 400).

        Raises MetricError for fewer frames than the network can take.
        """
        if videos.shape[2] < FEWEST_FRAMES:
            raise MetricError(
                f"FVD and KVD need clips of at least {FEWEST_FRAMES} frames, got "
                f"{videos.shape[2]}: I3D halves time three times. Leave them out for such a "
                "short protocol, or judge longer clips"
            )
        x = videos.to(self.device, torch.float32)
        for name, _, kernel in _STEM:
            x = self._conv(_pooled(x, name), name, stride=2 if kernel == 7 else 1)
        for name, _ in _MIXED:
            x = _pooled(x, name)
            around = _max_pool(x, (3, 3, 3), (1, 1, 1))
            x = torch.cat(
                [
                    self._conv(x, f"{name}.b0"),
                    self._conv(self._conv(x, f"{name}.b1a"), f"{name}.b1b"),
                    self._conv(self._conv(x, f"{name}.b2a"), f"{name}.b2b"),
                    self._conv(around, f"{name}.b3b"),
                ],
                dim=1,
            )
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)
        x = F.conv3d(x, self._weights["logits.weight"], self._weights["logits.bias"])
        return x.mean((2, 3, 4))

    def _conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self._weights[f"{name}.weight"]
        kernel, strides = tuple(weight.shape[2:]), (stride,) * 3
        x = _pad_same(x, kernel, strides)
        return F.relu(F.conv3d(x, weight, self._weights[f"{name}.bias"], strides), inplace=True)


def resize_bilinear(frames: Tensor, size: tuple[int, int] = (SIZE, SIZE)) -> Tensor:
    """Resize (N, H, W, 3) frames to float32 as TensorFlow 1's `tf.image.resize_bilinear` does.

    A target pixel i is read at i * H / size, without half-pixel centres and without antialiasing.
    """
    height, width = (
        _sampling(old, new).to(frames.device)
        for old, new in zip(frames.shape[1:3], size, strict=True)
    )
    tall = torch.einsum("ih,nhwc->niwc", height, frames.to(torch.float32))
    return torch.einsum("jw,niwc->nijc", width, tall)


def _sampling(old: int, new: int) -> Tensor:
    """Return the matrix (new, old) that interpolates linearly at i * old / new."""
    place = torch.arange(new, dtype=torch.float32) * (old / new)
    low = place.floor().long().clamp(max=old - 1)
    share = (place - low)[:, None]
    high = (low + 1).clamp(max=old - 1)
    return F.one_hot(low, old) * (1 - share) + F.one_hot(high, old) * share


def _pooled(x: Tensor, before: str) -> Tensor:
    return _max_pool(x, *_POOLS[before]) if before in _POOLS else x


def _max_pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    # Padding with zeros is as good as with -inf: what comes in was rectified.
    return F.max_pool3d(_pad_same(x, kernel, stride), kernel, stride)


def _pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Pad as TensorFlow does: to ceil(size / stride), the odd one at the end."""
    pads: list[int] = []
    for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        pad = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [pad // 2, pad - pad // 2]
    return F.pad(x, pads) if any(pads) else x


def _convolutions() -> dict[str, tuple[int, int, int]]:
    """Return channels out, channels in and kernel size of every convolution with batch norm."""
    found, channels = {}, 3
    for name, out, kernel in _STEM:
        found[name] = (out, channels, kernel)
        channels = out
    for name, (b0, b1a, b1b, b2a, b2b, b3b) in _MIXED:
        found[f"{name}.b0"] = (b0, channels, 1)
        found[f"{name}.b1a"], found[f"{name}.b1b"] = (b1a, channels, 1), (b1b, b1a, 3)
        found[f"{name}.b2a"], found[f"{name}.b2b"] = (b2a, channels, 1), (b2b, b2a, 3)
        found[f"{name}.b3b"] = (b3b, channels, 1)
        channels = b0 + b1b + b2b + b3b
    return found


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "logits.conv3d.weight": (_CLASSES, 1024, 1, 1, 1),
        "logits.conv3d.bias": (_CLASSES,),
    }
    for name, (out, channels, kernel) in _convolutions().items():
        shapes[f"{name}.conv3d.weight"] = (out, channels, kernel, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = (out,)
    return shapes


def _fold(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold each batch norm into its convolution."""
    folded = {f"logits.{part}": weights[f"logits.conv3d.{part}"] for part in ("weight", "bias")}
    for name in _convolutions():
        mean, var, gamma, beta = (
            weights[f"{name}.bn.{part}"].double()
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gamma / (var + _EPSILON).sqrt()
        kernel = weights[f"{name}.conv3d.weight"].double() * scale.reshape(-1, 1, 1, 1, 1)
        folded[f"{name}.weight"] = kernel.float()
        folded[f"{name}.bias"] = (beta - mean * scale).float()
    return folded
