"""Shards as zarr's `sharding_indexed` codec writes them: chunks, then where each lies."""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from aid_robot.data.store.objects import Blob, Objects
from aid_robot.errors import StoreError

# Offset and length of a chunk that was never written.
ABSENT = 2**64 - 1


@dataclass(frozen=True)
class Shard:
    """An open shard."""

    blob: Blob
    # (chunks, 2) int64: offset and length, -1 where absent.
    index: npt.NDArray[np.int64]

    def chunks(self, slots: Sequence[int], gap: int) -> list[memoryview | None]:
        """Read chunks, neighbours at once.

        Args:
            slots: Numbers within the shard.
            gap: Bytes between two chunks that are rather read than skipped.
        """
        found: list[memoryview | None] = [None] * len(slots)
        wanted = sorted(
            (int(self.index[slot, 0]), int(self.index[slot, 1]), place)
            for place, slot in enumerate(slots)
            if self.index[slot, 0] >= 0
        )
        at = 0
        while at < len(wanted):
            first, end, last = wanted[at][0], wanted[at][0] + wanted[at][1], at + 1
            while last < len(wanted) and wanted[last][0] - end <= gap:
                end = max(end, wanted[last][0] + wanted[last][1])
                last += 1
            data = memoryview(self.blob.read(first, end))
            for start, length, place in wanted[at:last]:
                found[place] = data[start - first : start - first + length]
            at = last
        return found


def open_shard(objects: Objects, key: str, chunks: int, largest: int) -> Shard | None:
    """Open a shard, None where there is none; StoreError where it is damaged.

    Args:
        objects: Where it lies.
        key: Its name.
        chunks: How many it has.
        largest: Bytes that none of them can exceed.
    """
    blob = objects.open(key)
    if blob is None:
        return None
    length = 16 * chunks + 4
    tail = blob.tail(length)
    if not tail and blob.size is None:
        return None
    content = tail[:-4]
    if len(tail) < length or struct.unpack("<I", tail[-4:])[0] != google_crc32c.value(content):
        raise StoreError(
            f"{objects.url}: the index of {key} fails its checksum; the store is damaged: "
            "restore it from a copy, or drop the episodes that `verify` names"
        )
    # Read as signed, an absent chunk's 2**64 - 1 is -1.
    index = np.frombuffer(content, "<i8").reshape(chunks, 2).astype(np.int64)
    end = largest * chunks if blob.size is None else blob.size - length
    offset, size = index.T
    there = offset != -1
    wrong = there & ((offset < 0) | (size < 0) | (size > largest) | (offset > end - size))
    if wrong.any() or (size[~there] != -1).any():
        raise StoreError(
            f"{objects.url}: the index of {key} leads out of the object; the store is damaged: "
            "restore it from a copy"
        )
    return Shard(blob, index)


def shard_parts(slots: Mapping[int, bytes | memoryview], chunks: int) -> list[bytes | memoryview]:
    """Lay out a shard: chunks in order, so that appending never moves those before."""
    index = np.full((chunks, 2), ABSENT, "<u8")
    parts: list[bytes | memoryview] = []
    offset = 0
    for slot in sorted(slots):
        data = slots[slot]
        index[slot] = offset, len(data)
        offset += len(data)
        parts.append(data)
    encoded = index.tobytes()
    return [*parts, encoded, struct.pack("<I", google_crc32c.value(encoded))]


class ShardCache:
    """The shards that were opened last, closed when others take their places.

    May be shared by threads. A forked process reads on from the same descriptors, which have no
    position to share.
    """

    def __init__(self, objects: Objects, capacity: int = 128) -> None:
        self._objects, self._capacity = objects, capacity
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, key: str, chunks: int, largest: int) -> Shard | None:
        """Open a shard, or give the one that is open."""
        with self._lock:
            shard = self._shards.get(key)
            if shard is not None:
                self._shards.move_to_end(key)
                return shard
        shard = open_shard(self._objects, key, chunks, largest)
        if shard is not None:
            with self._lock:
                self._shards[key] = shard
                while len(self._shards) > self._capacity:
                    self._shards.popitem(last=False)
        return shard

    def forget(self, key: str | None = None) -> None:
        """Close one shard, or all."""
        with self._lock:
            if key is None:
                self._shards.clear()
            else:
                self._shards.pop(key, None)

    def __getstate__(self) -> dict[str, Any]:
        return {"objects": self._objects, "capacity": self._capacity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["objects"], state["capacity"])  # type: ignore[misc]
