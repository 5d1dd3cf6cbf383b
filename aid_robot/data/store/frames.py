"""A camera of an episode in a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aid_robot.data.episode import FrameSequence, UInt8Array
from aid_robot.errors import StoreError

if TYPE_CHECKING:
    from aid_robot.data.store.columns import Column
    from aid_robot.data.store.reader import StoreReader


class StoreFrames(FrameSequence):
    """Frames that stay in the store until they are asked for."""

    def __init__(self, store: StoreReader, camera: str, start: int, count: int) -> None:
        self._store, self._camera, self._start, self._count = store, camera, start, count

    def __reduce__(self) -> tuple[type[StoreFrames], tuple[Any, ...]]:
        return type(self), (self._store, self._camera, self._start, self._count)

    def __repr__(self) -> str:
        return f"StoreFrames({self._camera!r}, {self._count} frames of '{self._store.url}')"

    def __len__(self) -> int:
        return self._count

    @property
    def column(self) -> Column:
        """The array that the frames are rows of."""
        return self._store.column(self._camera)

    @property
    def start(self) -> int:
        """Row of the first frame."""
        return self._start

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.column.row_shape[:2]
        return height, width

    def read(self, index: int) -> UInt8Array:
        frame: UInt8Array = self._take([index])[0]
        return frame

    def encoded(self, index: int) -> bytes | None:
        return self.column.encoded(self._start + index)

    def _take(self, indices: Sequence[int]) -> UInt8Array:
        return read_frames(self._store, self._camera, [self._start + i for i in indices])


def read_frames(store: StoreReader, camera: str, rows: Sequence[int]) -> UInt8Array:
    """Decode rows of a camera's array as (n, H, W, 3)."""
    column = store.column(camera)
    if not column.is_camera:
        raise StoreError(
            f"{store.url}: '{camera}' holds {column.dtype} of shape {column.row_shape}, no frames; "
            f"expected one of the cameras {', '.join(store.cameras)}"
        )
    frames: UInt8Array = column.read(rows)
    store.check_current()
    return frames
