"""Features by a network from the hub: video networks for an FVD of their own, image ones for FID.

I3D judges a clip much by its single frames; a video network trained by masking is less biased
towards content (Ge et al. 2024, "On the Content Bias in Fréchet Video Distance").
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from aid_robot.errors import CheckpointError, MetricError
from aid_robot.evaluation.metrics.metric import Frames, check_clip
from aid_robot.hub import resolve
from aid_robot.runtime.denoiser import choose_device

# ImageNet's, which nearly all of them are trained with.
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class _HubNetwork(ABC):
    """A transformers model, and how frames are brought to its input."""

    def __init__(self, model: Any, source: str, preprocessing: dict[str, Any]) -> None:
        self.model = model
        self.source = source
        self._mean, self._std = (
            torch.tensor(preprocessing.get(key, default), device=model.device).reshape(3, 1, 1)
            for key, default in (("image_mean", _MEAN), ("image_std", _STD))
        )

    @classmethod
    def load(cls, name_or_path: str, device: str = "auto") -> Self:
        """Load from a folder or hub id; every weight has to be there.

        Raises WeightsNotFoundError or CheckpointError.
        """
        folder = resolve(name_or_path)
        model = cls._load(folder).to(choose_device(device)).eval().requires_grad_(False)
        return cls(model, f"{type(model).__name__} {name_or_path}", _preprocessing(folder))

    @classmethod
    @abstractmethod
    def _load(cls, folder: Path) -> Any: ...

    def _pixels(self, clip: Frames) -> Tensor:
        """Squash frames to the network's square and normalise them, (N, 3, S, S)."""
        frames = torch.from_numpy(np.ascontiguousarray(check_clip(clip))).to(self.model.device)
        pixels = frames.movedim(-1, 1).float() / 255.0
        size = int(self.model.config.image_size)
        if pixels.shape[2:] != (size, size):
            pixels = F.interpolate(
                pixels, (size, size), mode="bilinear", align_corners=False, antialias=True
            )
        return (pixels - self._mean) / self._std


class ClipFeatures(_HubNetwork):
    """A VideoMAE's tokens, averaged: features of a clip, (D,)."""

    @classmethod
    def _load(cls, folder: Path) -> Any:
        from transformers import VideoMAEModel

        return _whole(VideoMAEModel, folder)

    @torch.inference_mode()
    def __call__(self, clip: Frames) -> NDArray[np.float32]:
        """Return the features of one clip (N, H, W, 3) uint8, (D,).

        A clip of another length than the network's is read at evenly spread times, frames being
        left out or repeated.
        """
        pixels = self._pixels(clip)
        wanted = int(self.model.config.num_frames)
        times = torch.linspace(0, len(pixels) - 1, wanted).round().long()
        tokens = self.model(pixels[times][None]).last_hidden_state
        features: NDArray[np.float32] = tokens.mean(1)[0].float().cpu().numpy()
        return features


class FrameFeatures(_HubNetwork):
    """An image network's class token or pooled output: features of each frame, (N, D)."""

    @classmethod
    def _load(cls, folder: Path) -> Any:
        from transformers import AutoModel

        model = _whole(AutoModel, folder)
        model = getattr(model, "vision_model", model)  # of a CLIP, the half that sees
        if not hasattr(model.config, "image_size"):
            raise CheckpointError(
                f"{folder} holds a {type(model).__name__}, expected an image network with an "
                "image_size: a ViT, DINOv2, CLIP or the like"
            )
        return model

    @torch.inference_mode()
    def __call__(self, clip: Frames) -> NDArray[np.float32]:
        """Return the features of each frame of a clip (N, H, W, 3) uint8, (N, D)."""
        output = self.model(self._pixels(clip))
        pooled = getattr(output, "pooler_output", None)
        features = output.last_hidden_state[:, 0] if pooled is None else pooled
        if features.ndim != 2:
            features = features.flatten(1)
        found: NDArray[np.float32] = features.float().cpu().numpy()
        return found


def _whole(cls: Any, folder: Path) -> Any:
    """Load a model, and refuse one of which any weight would be made up."""
    try:
        model, report = cls.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{folder} can't be loaded as {cls.__name__}: {reason}") from error
    # A head that the features don't pass through may be missing.
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} weights of a {type(model).__name__} (the first is "
            f"{sorted(missing)[0]}): it holds another network"
        )
    return model


def _preprocessing(folder: Path) -> dict[str, Any]:
    path = folder / "preprocessor_config.json"
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): restore it") from error
    for key in ("image_mean", "image_std"):
        numbers = values.get(key, _MEAN)
        if len(numbers) != 3 or not all(math.isfinite(float(number)) for number in numbers):
            raise MetricError(f"{path} has {key} = {numbers}, expected three numbers")
    return dict(values)
