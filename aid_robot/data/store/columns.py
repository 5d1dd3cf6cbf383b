"""The arrays of a store: rows are read at random, and written at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aid_robot.data.store.codecs import ChunkCodec, JpegCodec
from aid_robot.data.store.layout import ArrayLayout, put_json
from aid_robot.data.store.objects import Objects
from aid_robot.data.store.shards import ShardCache, open_shard, shard_parts
from aid_robot.errors import StoreError

Array = npt.NDArray[Any]


class Column(ABC):
    """One array, its first axis is time."""

    key: str
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    @abstractmethod
    def is_camera(self) -> bool:
        """Whether the rows are frames (H, W, 3) uint8."""

    @abstractmethod
    def read(self, rows: Sequence[int]) -> Array:
        """Read rows by their numbers, (n, ...)."""

    def encoded(self, row: int) -> bytes | None:
        """Give a frame as the JPEG that it is stored as, None where it isn't one."""
        return None


class ShardedColumn(Column):
    """An array that this package wrote."""

    def __init__(self, objects: Objects, key: str, layout: ArrayLayout, cache: ShardCache) -> None:
        self._objects, self.key, self.layout, self._cache = objects, key, layout, cache
        self.row_shape, self.dtype = layout.row_shape, layout.dtype

    @property
    def codec(self) -> ChunkCodec:
        """How its chunks are compressed."""
        return self.layout.codec

    @property
    def is_camera(self) -> bool:
        return self.layout.is_camera

    def read(self, rows: Sequence[int]) -> Array:
        layout = self.layout
        if layout.chunk_rows == 1:
            return self.decoded(self.chunks(rows), rows)
        out = np.empty((len(rows), *layout.row_shape), layout.dtype)
        numbers = np.asarray(rows, np.int64)
        chunk_of = numbers // layout.chunk_rows
        wanted = np.unique(chunk_of)
        buffer = np.empty(layout.chunk_shape, layout.dtype)
        for chunk, data in zip(wanted, self.chunks(wanted.tolist()), strict=True):
            self._decode(data, buffer, int(chunk) * layout.chunk_rows)
            here = chunk_of == chunk
            out[here] = buffer[numbers[here] - chunk * layout.chunk_rows]
        return out

    def decoded(self, chunks: Sequence[memoryview | None], rows: Sequence[int]) -> Array:
        """Decode chunks of one row each, whose numbers errors name, as (n, ...)."""
        out = np.empty((len(rows), *self.layout.row_shape), self.layout.dtype)
        for place, data in enumerate(chunks):
            self._decode(data, out[place : place + 1], rows[place])
        return out

    def _decode(self, data: memoryview | None, out: Array, row: int) -> None:
        if data is None:
            raise StoreError(
                f"{self._objects.url}: row {row} of {self.key} is missing, though its episode has "
                "it; restore the store from a copy, or drop the episodes that `verify` names"
            )
        try:
            self.codec.decode(data, out)
        except StoreError as error:
            raise StoreError(
                f"{self._objects.url}: row {row} of {self.key} is damaged: {error}; restore the "
                "store from a copy, or drop the episodes that `verify` names"
            ) from error

    def chunks(self, numbers: Sequence[int]) -> list[memoryview | None]:
        """Read chunks as they are stored, None for those that were never written."""
        found: list[memoryview | None] = []
        at, count = 0, self.layout.shard_chunks
        while at < len(numbers):
            shard = numbers[at] // count
            end = at + 1
            while end < len(numbers) and numbers[end] // count == shard:
                end += 1
            key = self.object_key(shard)
            opened = self._cache.open(key, count, self.layout.largest_chunk)
            if opened is None:
                found += [None] * (end - at)
            else:
                slots = [number - shard * count for number in numbers[at:end]]
                found += opened.chunks(slots, self._objects.gap)
            at = end
        return found

    def has(self, numbers: Sequence[int]) -> list[bool]:
        """Say of each chunk whether it was written."""
        found = []
        count, largest = self.layout.shard_chunks, self.layout.largest_chunk
        for number in numbers:
            shard, slot = divmod(number, count)
            opened = self._cache.open(self.object_key(shard), count, largest)
            found.append(opened is not None and opened.has(slot))
        return found

    def object_key(self, shard: int) -> str:
        """Key of the object that holds a shard."""
        return f"{self.key}/{self.layout.object_name(shard)}"

    def encoded(self, row: int) -> bytes | None:
        if not isinstance(self.codec, JpegCodec):
            return None
        data = self.chunks([row])[0]
        return None if data is None else bytes(data[:-4])


class ColumnWriter:
    """Append rows to an array, shard by shard.

    Rows from `limit` on are what a writer left that didn't get to its commit; they are written
    over, or removed by `reclaim`.
    """

    def __init__(
        self, objects: Objects, key: str, layout: ArrayLayout, limit: int, declared: int
    ) -> None:
        self._objects, self.key, self.layout = objects, key, layout
        # Rows that count; rows that the array's metadata say there are. Never fewer than are
        # stored, so that a difference tells the next writer of remains.
        self.limit, self.declared = limit, declared
        # Whether the metadata may say another length, since an interrupt came while they changed.
        self._unsure = False
        self._open: _OpenShard | None = None
        self._chunk: int | None = None
        self._rows: Array = np.empty(0, layout.dtype)

    def put_chunk(self, row: int, data: bytes | memoryview) -> None:
        """Add one compressed row, where each is a chunk of its own."""
        assert self.layout.chunk_rows == 1
        self._shard(row // self.layout.shard_chunks).put(row % self.layout.shard_chunks, data)
        self.limit = max(self.limit, row + 1)

    def put_rows(self, row: int, rows: Array) -> None:
        """Add rows (n, ...) from number `row` on."""
        size = self.layout.chunk_rows
        while len(rows):
            chunk, offset = divmod(row, size)
            self._open_chunk(chunk)
            count = min(size - offset, len(rows))
            self._rows[offset : offset + count] = rows[:count]
            row, rows = row + count, rows[count:]
            self.limit = max(self.limit, row)

    def take_back(self, limit: int) -> None:
        """Forget the rows from `limit` on."""
        self._seal()
        self.limit = limit
        if self._open is not None:
            if self._open.number * self.layout.shard_rows >= limit:
                self._open = None
            else:
                self._cut(self._open)
        if self.declared > limit or self._unsure:
            self.reclaim()

    def flush(self, ahead: int = 0) -> None:
        """Write what is held in memory; declare `ahead` more shards where any must be declared."""
        self._seal()
        shard = self._open
        if shard is None or not shard.changed:
            return
        shard_rows = self.layout.shard_rows
        end = min(self.limit, (shard.number + 1) * shard_rows)
        if end > self.declared or self._unsure:
            self.declare(end + ahead * shard_rows)
        key = self._object_key(shard.number)
        if shard.slots:
            self._objects.put(key, shard_parts(shard.slots, self.layout.shard_chunks))
        else:
            self._objects.delete(key)
        shard.changed = False

    def declare(self, rows: int) -> None:
        """Set the length that the array's metadata say."""
        if rows != self.declared or self._unsure:
            self._unsure = True
            put_json(self._objects, self.key, self.layout.to_json(rows))
            self.declared = rows
            self._unsure = False

    def reclaim(self) -> None:
        """Remove what is stored of rows from `limit` on."""
        shard_rows = self.layout.shard_rows
        folder, position = (self.key, 1) if self.layout.separator == "." else (f"{self.key}/c", 0)
        # Those that are there: the metadata may claim any number.
        for name in self._objects.names(folder):
            number = [*name.split("."), ""][position]
            if number.isdecimal() and int(number) * shard_rows >= self.limit:
                self._objects.delete(self._object_key(int(number)))
        if self.limit % shard_rows:
            self._shard(self.limit // shard_rows).changed = True
            self.flush()
        self.declare(self.limit)

    def _shard(self, number: int) -> _OpenShard:
        """Open a shard, with what it holds of rows up to the limit."""
        if self._open is not None and self._open.number == number:
            return self._open
        # A long episode shall not write the array's length anew with each shard.
        self.flush(ahead=8)
        shard = _OpenShard(number, {})
        if number * self.layout.shard_rows < self.limit:
            count, largest = self.layout.shard_chunks, self.layout.largest_chunk
            found = open_shard(self._objects, self._object_key(number), count, largest)
            if found is not None:
                slots = range(count)
                chunks = found.chunks(slots, self._objects.gap)
                shard.slots = {
                    slot: data for slot, data in zip(slots, chunks, strict=True) if data is not None
                }
                self._cut(shard)
        # Last, so that an interrupt leaves no shard open that wasn't read.
        self._open = shard
        return shard

    def _cut(self, shard: _OpenShard) -> None:
        """Drop chunks past the limit, and the end of the one that it goes through."""
        kept = self.limit - shard.number * self.layout.shard_rows
        size = self.layout.chunk_rows
        for slot in [slot for slot in shard.slots if slot * size >= kept]:
            shard.drop(slot)
        slot, rest = divmod(kept, size)
        if rest and slot in shard.slots:
            rows = self._decoded(shard, slot)
            rows[rest:] = self.layout.fill
            shard.put(slot, self.layout.codec.encode(rows))

    def _open_chunk(self, chunk: int) -> None:
        if chunk == self._chunk:
            return
        self._seal()
        number, slot = divmod(chunk, self.layout.shard_chunks)
        self._rows = self._decoded(self._shard(number), slot)
        self._chunk = chunk

    def _decoded(self, shard: _OpenShard, slot: int) -> Array:
        rows = np.full(self.layout.chunk_shape, self.layout.fill, self.layout.dtype)
        if slot in shard.slots:
            self.layout.codec.decode(shard.slots[slot], rows)
        return rows

    def _seal(self) -> None:
        """Compress the chunk that rows were added to."""
        if self._chunk is not None:
            number, slot = divmod(self._chunk, self.layout.shard_chunks)
            self._shard(number).put(slot, self.layout.codec.encode(self._rows))
            self._chunk = None

    def _object_key(self, number: int) -> str:
        return f"{self.key}/{self.layout.object_name(number)}"


@dataclass
class _OpenShard:
    """A shard in memory, while it is written to."""

    number: int
    # Slot -> compressed chunk.
    slots: dict[int, bytes | memoryview]
    changed: bool = False

    def put(self, slot: int, data: bytes | memoryview) -> None:
        self.slots[slot] = data
        self.changed = True

    def drop(self, slot: int) -> None:
        del self.slots[slot]
        self.changed = True
