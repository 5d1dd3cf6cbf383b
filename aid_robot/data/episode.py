"""The one shape that every recording is read into."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from aid_robot.errors import DataFormatError

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
FloatArray: TypeAlias = npt.NDArray[np.float32]
Outcome: TypeAlias = Literal["demo", "success", "failure"]


class FrameSequence(ABC):
    """The frames of one camera, decoded when they are asked for.

    Behaves as a read-only uint8 RGB array of shape (T, H, W, 3): `seq[3]` is one frame (H, W, 3),
    `seq[2:8:2]` and `seq[[1, 5, 9]]` are several (n, H, W, 3), `np.asarray(seq)` is all of them.
    What is handed out is the caller's own to write to.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Count the frames."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    @abstractmethod
    def read(self, index: int) -> UInt8Array:
        """Decode the frame at `index`, 0 <= index < len(self), as (H, W, 3) RGB."""

    def encoded(self, index: int) -> bytes | None:
        """Give the frame at `index` as the JPEG that it is stored as, None where it isn't one."""
        return None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3), as of the array that this stands for."""
        return (len(self), *self.size, 3)

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> UInt8Array: ...
    @overload
    def __getitem__(self, key: slice | Sequence[int] | npt.NDArray[Any]) -> UInt8Array: ...
    def __getitem__(
        self, key: int | np.integer[Any] | slice | Sequence[int] | npt.NDArray[Any]
    ) -> UInt8Array:
        if isinstance(key, (int, np.integer)):
            return self.read(self._checked(int(key)))
        if isinstance(key, slice):
            return self._take(list(range(*key.indices(len(self)))))
        indices = np.asarray(key)
        if indices.size and (indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer)):
            raise TypeError(
                f"frames are indexed by an int, a slice or a list of ints, not by {key!r}"
            )
        return self._take([self._checked(int(i)) for i in indices])

    def __iter__(self) -> Iterator[UInt8Array]:
        for index in range(len(self)):
            yield self.read(index)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("frames are decoded on request, so an array of them is always a copy")
        return self[:].astype(dtype or np.uint8, copy=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} frames)"

    def _checked(self, index: int) -> int:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"frame {index} was asked for, but there are {count} frames")
        return index % count

    def _take(self, indices: list[int]) -> UInt8Array:
        taken = np.empty((len(indices), *self.size, 3), np.uint8)
        # In ascending order, so that a video is decoded forward only; a repeat is decoded once.
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(index, []).append(place)
        for index in sorted(places):
            taken[places[index]] = self.read(index)
        return taken


@dataclass(frozen=True, eq=False)
class Episode:
    """One recorded episode: what the cameras saw, what the robot did, what it was told."""

    # Unique within its recording.
    id: str
    # Camera name -> frames, the default camera first; all cameras have the same length T.
    videos: Mapping[str, FrameSequence]
    # (T, 7): dx, dy, dz [m], droll, dpitch, dyaw [rad], gripper in [0, 1] with 1 = open. Motion is
    # in the robot's base frame unless a note says otherwise; row t leads from frame t to t + 1.
    actions: FloatArray | None = None
    # (T, 7): x, y, z [m], roll, pitch, yaw [rad], gripper opening in [0, 1] with 1 = open.
    state: FloatArray | None = None
    # The first of `instructions`; None where the recording has none, or only blanks.
    instruction: str | None = None
    # Every wording that the recording holds, without blanks and repeats.
    instructions: tuple[str, ...] = ()
    outcome: Outcome | None = None
    # Frames a second of the world; None where unknown, as in re-timed videos.
    fps: float | None = None
    # Where it was read from, for a person.
    source: str = ""
    # What the reader saw and the user should know, one sentence each.
    notes: tuple[str, ...] = ()
    # Episodes of one scene belong on the same side of a split; "" where unknown.
    scene: str = ""
    # Further arrays with a row a frame, (T, ...): actions of other robots, depth, simulator states.
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    # What else is known, as JSON: the task, why it failed, true and false captions.
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.videos:
            raise DataFormatError(
                f"episode '{self.id}' ({self.source}) has no camera with frames; at least one is "
                "needed: remove the episode from the recording"
            )
        counts = {camera: len(frames) for camera, frames in self.videos.items()}
        if len(set(counts.values())) > 1:
            raise DataFormatError(
                f"episode '{self.id}' ({self.source}) has cameras of different lengths, {counts}; "
                "expected the same number of frames from each: export the recording again"
            )
        for name, rows in (("actions", self.actions), ("state", self.state)):
            if rows is not None and (rows.shape != (len(self), 7) or rows.dtype != np.float32):
                raise DataFormatError(
                    f"episode '{self.id}' ({self.source}) has {name} of shape {rows.shape} and "
                    f"type {rows.dtype}; expected float32 of shape ({len(self)}, 7), a row a frame"
                )

        for name, rows in self.arrays.items():
            if len(rows) != len(self):
                raise DataFormatError(
                    f"episode '{self.id}' ({self.source}) has {len(rows)} rows of {name} for "
                    f"{len(self)} frames; expected a row a frame"
                )

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def camera(self) -> str:
        """Name of the default camera."""
        return next(iter(self.videos))

    @property
    def frames(self) -> FrameSequence:
        """The default camera's frames."""
        return self.videos[self.camera]
