"""A clip, and a batch of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aid_robot.data.episode import FloatArray, UInt8Array
from aid_robot.errors import DataFormatError


@dataclass(frozen=True, eq=False)
class Clip:
    """A window of an episode."""

    # (N, H, W, 3) RGB, those past the episode's end repeat its last one; only the K given ones
    # where `latents` stand for the frames.
    frames: UInt8Array
    # Frames that are real, 1 <= valid <= N.
    valid: int
    # "" where the episode has none.
    instruction: str
    # The episode's id.
    episode: str
    camera: str
    # The episode's frame that the clip starts at.
    start: int
    # (N * stride, 7), a row a control step: row j * stride leads from frame j on. Past the
    # episode's end the robot stands still.
    actions: FloatArray | None = None
    # (N, C, h, w), unscaled, where they were cached.
    latents: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """B clips as tensors."""

    frames: Tensor  # (B, N or K, H, W, 3) uint8
    valid: Tensor  # (B,) int64
    instructions: tuple[str, ...]
    episodes: tuple[str, ...]
    cameras: tuple[str, ...]
    starts: Tensor  # (B,) int64
    actions: Tensor | None = None  # (B, N * stride, 7) float32
    latents: Tensor | None = None  # (B, N, C, h, w) float32

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def mask(self) -> Tensor:
        """Which frames are real, (B, N) bool."""
        count = self.frames.shape[1] if self.latents is None else self.latents.shape[1]
        return torch.arange(count, device=self.valid.device) < self.valid[:, None]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> ClipBatch:
        """Copy the tensors to a device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ClipBatch:
        """Copy the tensors to pinned memory, as a DataLoader with `pin_memory=True` asks."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> ClipBatch:
        changed: dict[str, Any] = {
            name: change(value) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return ClipBatch(**changed)


def collate(clips: Sequence[Clip]) -> ClipBatch:
    """Stack clips of one shape."""
    return ClipBatch(
        frames=_stack([clip.frames for clip in clips], clips),
        valid=torch.tensor([clip.valid for clip in clips]),
        instructions=tuple(clip.instruction for clip in clips),
        episodes=tuple(clip.episode for clip in clips),
        cameras=tuple(clip.camera for clip in clips),
        starts=torch.tensor([clip.start for clip in clips]),
        actions=_stack_rows([clip.actions for clip in clips], clips),
        latents=_stack_rows([clip.latents for clip in clips], clips),
    )


def _stack_rows(parts: Sequence[FloatArray | None], clips: Sequence[Clip]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return _stack(present, clips) if len(present) == len(parts) else None


def _stack(parts: Sequence[npt.NDArray[Any]], clips: Sequence[Clip]) -> Tensor:
    for part, clip in zip(parts, clips, strict=True):
        if part.shape != parts[0].shape:
            raise DataFormatError(
                f"clips of '{clips[0].episode}' and '{clip.episode}' have the shapes "
                f"{parts[0].shape} and {part.shape}; a batch needs one shape: set the clips' size"
            )
    return torch.from_numpy(np.stack(parts))
