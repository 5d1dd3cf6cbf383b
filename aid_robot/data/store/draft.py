"""One episode on its way into a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aid_robot.data.episode import FrameSequence
from aid_robot.data.store.codecs import JpegCodec
from aid_robot.data.store.columns import Array, ColumnWriter, ShardedColumn
from aid_robot.data.store.frames import StoreFrames
from aid_robot.data.store.layout import TYPES, ArrayLayout
from aid_robot.errors import StoreError

if TYPE_CHECKING:
    from aid_robot.data.store.writer import Writer

# Frames that are copied from store to store at once.
COPIED = 64


class Draft:
    """An episode that is being written."""

    def __init__(self, writer: Writer, start: int, known: tuple[str, ...]) -> None:
        # Row of the first frame in the store's arrays.
        self.start = start
        self._writer, self._known = writer, known
        self._touched: dict[str, ColumnWriter] = {}

    def add_video(self, key: str, frames: FrameSequence) -> None:
        """Write a camera whole."""
        column = self._camera(key, frames.size)
        codec = column.layout.codec
        stored = frames.column if isinstance(frames, StoreFrames) else None
        # A JPEG is kept whatever its quality, a PNG whatever its level.
        if (
            isinstance(frames, StoreFrames)
            and isinstance(stored, ShardedColumn)
            and type(stored.codec) is type(codec)
        ):
            self._copy(column, stored, frames.start, len(frames))
            return
        for place in range(len(frames)):
            self._put_frame(column, self.start + place, frames.encoded(place), frames, place)

    def add_frame(self, key: str, place: int, frame: FrameSequence) -> None:
        """Write the only frame of `frame` as the episode's frame number `place`."""
        column = self._camera(key, frame.size)
        self._put_frame(column, self.start + place, frame.encoded(0), frame, 0)

    def add_rows(self, key: str, rows: Array, place: int = 0) -> None:
        """Write rows (n, ...) of an array, from the episode's frame number `place` on."""
        if rows.dtype.name not in TYPES:
            raise StoreError(
                f"'{key}' holds {rows.dtype}; expected numbers or booleans: convert it first, or "
                "put texts into the episode's `info`"
            )
        column = self._column(key, ArrayLayout.of_rows(rows))
        self._writer.count(rows.nbytes)
        self._writer.guarded(lambda: column.put_rows(self.start + place, rows))

    def take_back(self) -> None:
        """Remove all that was written."""
        for key, column in self._touched.items():
            if key in self._known:
                column.take_back(self.start)
            else:
                self._writer.discard(key)

    def _camera(self, key: str, size: tuple[int, int]) -> ColumnWriter:
        return self._column(key, self._writer.frames_layout(size))

    def _column(self, key: str, layout: ArrayLayout) -> ColumnWriter:
        self._touched[key] = self._writer.column(key, layout)
        return self._touched[key]

    def _put_frame(
        self,
        column: ColumnWriter,
        row: int,
        jpeg: bytes | None,
        frames: FrameSequence,
        place: int,
    ) -> None:
        codec, size = column.layout.codec, column.layout.row_shape[:2]
        data = None
        if jpeg is not None and isinstance(codec, JpegCodec):
            data = codec.take_over(jpeg, (size[0], size[1]))
        if data is None:
            data = codec.encode(frames.read(place)[None])
        self._put(column, row, data)

    def _put(self, column: ColumnWriter, row: int, data: bytes) -> None:
        self._writer.count(len(data))
        self._writer.guarded(lambda: column.put_chunk(row, data))

    def _copy(self, column: ColumnWriter, source: ShardedColumn, first: int, count: int) -> None:
        for start in range(0, count, COPIED):
            rows = range(first + start, first + min(start + COPIED, count))
            for place, data in enumerate(source.chunks(rows)):
                if data is not None:
                    self._put(column, self.start + start + place, bytes(data))
