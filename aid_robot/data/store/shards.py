"""Shards as zarr's `sharding_indexed` codec writes them: chunks, then where each lies."""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    # For error messages.
    name: str
    # (chunks, 2) int64: offset and length, -1 where absent.
    index: npt.NDArray[np.int64]
    # Where the chunks end, and what none of them exceeds, in bytes.
    end: int
    largest: int

    def chunks(self, slots: Sequence[int], gap: int) -> list[memoryview | None]:
        """Read chunks, neighbours at once; StoreError where the index leads out of the object.

        Args:
            slots: Numbers within the shard.
            gap: Bytes between two chunks that are rather read than skipped.
        """
        found: list[memoryview | None] = [None] * len(slots)
        places = [
            (offset, length, place)
            for place, (offset, length) in enumerate(self.index[slots].tolist())
            if (offset, length) != (-1, -1)
        ]
        places.sort()
        if places:
            self._check(places)
        at = 0
        while at < len(places):
            first, end, last = places[at][0], places[at][0] + places[at][1], at + 1
            while last < len(places) and places[last][0] - end <= gap:
                end = max(end, places[last][0] + places[last][1])
                last += 1
            data = memoryview(self.blob.read(first, end))
            for start, length, place in places[at:last]:
                found[place] = data[start - first : start - first + length]
            at = last
        return found

    def has(self, slot: int) -> bool:
        """Whether a chunk was ever written."""
        return bool(self.index[slot, 0] != -1)

    def _check(self, places: list[tuple[int, int, int]]) -> None:
        lengths = [length for _, length, _ in places]
        end = max(offset + length for offset, length, _ in places)
        if places[0][0] < 0 or min(lengths) < 0 or max(lengths) > self.largest or end > self.end:
            raise StoreError(
                f"{self.name}: the index leads out of the object; the store is damaged: restore "
                "it from a copy"
            )


def open_shard(objects: Objects, key: str, chunks: int, largest: int) -> Shard | None:
    """Open a shard, None where there is none; StoreError where its index is damaged.

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
    index = np.frombuffer(content, "<i8").reshape(chunks, 2).astype(np.int64, copy=False)
    end = largest * chunks if blob.size is None else blob.size - length
    return Shard(blob, f"{objects.url}: {key}", index, end, largest)


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
