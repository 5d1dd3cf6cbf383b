"""Write an episode while it happens."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aid_robot.data.episode import FrameSequence
from aid_robot.data.frames import ArrayFrames, EncodedFrames
from aid_robot.data.store.records import EpisodeRecord
from aid_robot.errors import StoreError

if TYPE_CHECKING:
    from aid_robot.data.store.draft import Draft
    from aid_robot.data.store.store import EpisodeStore
    from aid_robot.data.store.writer import Writer

Array = npt.NDArray[Any]
# Of the action at the last frame, which nothing follows.
GRIPPER = 6


class EpisodeWriter:
    """Add frames one by one; the episode is committed at the end of the `with` block.

    An exception in the block, or the death of the process, leaves no trace of it.
    """

    def __init__(self, store: EpisodeStore, writer: Writer, record: EpisodeRecord) -> None:
        self._store, self._writer, self._record = store, writer, record
        self._draft: Draft | None = None
        self._length = 0
        self._rows: dict[str, Array] = {}
        # What the first frame had.
        self._cameras: tuple[str, ...] = ()
        self._keys: tuple[str, ...] = ()
        # Whether the last frame lacked an action.
        self._still = False

    def __enter__(self) -> EpisodeWriter:
        self._draft = self._writer.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            # Without effect where it was finished.
            self._writer.abandon()
            self._draft = None

    def __len__(self) -> int:
        return self._length

    def note(self, **fields: Any) -> None:
        """Set fields of the record known only now: outcome, notes, info and others."""
        self._record = self._record.changed(fields)

    def add(
        self,
        frames: Mapping[str, npt.NDArray[np.uint8] | bytes],
        action: npt.ArrayLike | None = None,
        state: npt.ArrayLike | None = None,
        **arrays: npt.ArrayLike,
    ) -> None:
        """Add what belongs to one moment.

        Args:
            frames: Camera -> RGB (H, W, 3) uint8, or the camera's JPEG bytes; the default camera
                first, the same cameras every time.
            action: (7,), from this frame to the next; may lack at the last frame alone, which
                then gets a still one.
            state: (7,).
            arrays: Further rows of any shape, the same names every time.
        """
        draft = self._open()
        given = {"action": action, "state": state, **arrays}
        rows = {key: _row(key, row) for key, row in given.items() if row is not None}
        images = {camera: _frame(camera, frame) for camera, frame in frames.items()}
        self._check(tuple(images), tuple(rows))
        if self._still:
            raise self._wrong("the frame before this one has no action")
        place, missing = self._length, set(self._keys) - set(rows)
        for camera, image in images.items():
            draft.add_frame(camera, place, image)
        if missing:
            self._still = True
            rows["action"] = self._rows["action"].copy()
            rows["action"][:GRIPPER] = 0
        for key, row in rows.items():
            draft.add_rows(key, row[None], place)
        self._rows = rows
        self._length += 1

    def _open(self) -> Draft:
        if self._draft is None or not self._writer.is_open(self._draft):
            raise StoreError(
                f"episode '{self._record.id}' is not being recorded (any more); expected to be "
                "within `with store.record(...)`, and no write of it to have failed"
            )
        return self._draft

    def _check(self, cameras: tuple[str, ...], keys: tuple[str, ...]) -> None:
        if not self._length:
            if not cameras:
                raise self._wrong("the first frame shows no camera")
            self._cameras, self._keys = cameras, keys
            self._record = self._store.checked_record(self._record, cameras, keys)
            return
        if set(cameras) != set(self._cameras):
            raise self._wrong(f"it shows {list(cameras)}, the first {list(self._cameras)}")
        missing = set(self._keys) ^ set(keys)
        if missing - {"action"} or ("action" in keys and "action" not in self._keys):
            raise self._wrong(f"it has {list(keys)}, the first {list(self._keys)}")

    def _wrong(self, what: str) -> StoreError:
        return StoreError(
            f"frame {self._length} of episode '{self._record.id}' doesn't fit: {what}; expected "
            "the same cameras and arrays with every frame"
        )

    def _finish(self) -> None:
        record = self._record
        self._open()
        if not self._length:
            raise StoreError(f"episode '{record.id}' got no frames; expected one `add` at least")
        if self._still:
            added = "the last frame has no action of its own: it got a still one"
            record = record.changed({"notes": (*record.notes, added)})
        self._store.finish_recording(record, self._length)


def _row(key: str, row: npt.ArrayLike) -> Array:
    array = np.asarray(row)
    if key in ("action", "state"):
        array = array.astype(np.float32)
        if array.shape != (7,):
            raise StoreError(
                f"{key} has shape {array.shape}; expected (7,): give what has other sizes under "
                "another name, as in add(frames, joints=...)"
            )
    return array


def _frame(camera: str, frame: npt.NDArray[np.uint8] | bytes) -> FrameSequence:
    if isinstance(frame, (bytes, bytearray, memoryview)):
        return EncodedFrames([bytes(frame)], f"a frame of {camera}")
    image = np.asarray(frame)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise StoreError(
            f"a frame of {camera} has shape {image.shape} and type {image.dtype}; expected RGB "
            "(H, W, 3) uint8, or JPEG bytes"
        )
    return ArrayFrames(image[None])
