"""What clips are cut."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from aid_robot.data.episode import Outcome
from aid_robot.errors import ConfigError

Padding: TypeAlias = Literal["repeat", "drop"]
Weighting: TypeAlias = Literal["windows", "sqrt", "episodes"]


@dataclass(frozen=True)
class ClipConfig:
    """What clips are cut out of episodes, and how often each."""

    # N, the frames of a clip, of which the first K are given and the others to be predicted.
    num_frames: int = 16
    num_given: int = 1
    # Height and width; None keeps what is stored.
    size: tuple[int, int] | None = None
    # Control steps from one frame of a clip to the next.
    stride: int = 1
    # Frames a second of the clips, the episodes' own rate over `stride`. An episode of another
    # rate, or an unknown one, is refused; None takes any.
    fps: float | None = None
    # Where an episode ends within a window: repeat its last frame, or take no such window. No
    # window begins before its episode does.
    padding: Padding = "repeat"
    # Real frames that a window has at least; None is half of N, or K + 1 where that is more.
    min_frames: int | None = None
    # A name, "default", "random" (drawn anew for each clip), or "all", each as a video of its own.
    camera: str = "default"
    # What is equally likely: windows; or videos, whatever their length; or the square root in
    # between, by which longer videos count more, but less than in full.
    weighting: Weighting = "windows"
    # Windows whose mean change from frame to frame, as of `frame_motion`, is less are left out.
    # In recorded Bridge still frames change by 0.4 to 2.5, moving ones mostly by 10 to 200.
    min_motion: float = 0.0
    # Only episodes of these outcomes, None among them for unlabelled ones; None takes all.
    outcomes: Collection[Outcome | None] | None = None
    # Read the actions, too; episodes without are refused.
    actions: bool = False
    # The hash of the model whose cached latents are read in place of the frames to be predicted,
    # from under `latents_key`; "" reads frames. Episodes at hand carry them in `arrays`.
    latents: str = ""

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.stride < 1:
            raise ConfigError(
                f"num_frames={self.num_frames} and stride={self.stride} must be at least 1"
            )
        if not 0 <= self.num_given < self.num_frames:
            raise ConfigError(
                f"num_given={self.num_given} must be in [0, num_frames={self.num_frames})"
            )
        if self.padding not in ("repeat", "drop"):
            raise ConfigError(f"padding={self.padding!r} must be 'repeat' or 'drop'")
        if self.weighting not in ("windows", "sqrt", "episodes"):
            raise ConfigError(
                f"weighting={self.weighting!r} must be 'windows', 'sqrt' or 'episodes'"
            )
        if self.min_frames is not None:
            if self.padding == "drop":
                raise ConfigError(
                    f"min_frames={self.min_frames} has no meaning with padding='drop': leave it out"
                )
            if not self.num_given < self.min_frames <= self.num_frames:
                raise ConfigError(
                    f"min_frames={self.min_frames} must be in (num_given={self.num_given}, "
                    f"num_frames={self.num_frames}]"
                )
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError(f"fps={self.fps} must be positive, or None for any rate")
        if self.size is not None and min(self.size) < 1:
            raise ConfigError(f"size={self.size} must be (height, width) of at least 1")
        if self.latents and self.num_given < 1:
            raise ConfigError(
                f"num_given={self.num_given} must be at least 1 with latents, which stand for the "
                "frames after the given ones"
            )
        if not self.min_motion >= 0:
            raise ConfigError(f"min_motion={self.min_motion} must be 0 or more")

    @property
    def needed(self) -> int:
        """Real frames that a window has at least."""
        if self.padding == "drop":
            return self.num_frames
        return self.min_frames or max(self.num_given + 1, self.num_frames // 2)
