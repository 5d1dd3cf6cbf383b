"""The state of a store at one commit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aid_robot.data.store.codecs import CRC32C, JpegCodec, PngCodec, seal, unseal
from aid_robot.data.store.layout import (
    array_json,
    checked_key,
    get_json,
    group_json,
    put_json,
    shape_of,
)
from aid_robot.data.store.objects import Objects, WriteError
from aid_robot.errors import StoreError, StoreFullError

# Its metadata are the commit: they say how many episodes there are, written last and at once.
COMMIT = "meta/episode_ends"
ENDS_CHUNK = 1024
# Raised when a store could no longer be read by older versions of this package.
VERSION = 1

Ends = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """What a store is made with, for good."""

    codec: JpegCodec | PngCodec = field(default_factory=JpegCodec)
    # Frames that are stored in one object.
    shard_frames: int = 256
    # Other for a store that was put in the place of this one.
    generation: str = field(default_factory=lambda: os.urandom(8).hex())

    @property
    def codec_name(self) -> Literal["jpeg", "png"]:
        """Name the codec as EpisodeStore.create does."""
        return "jpeg" if isinstance(self.codec, JpegCodec) else "png"

    def to_json(self) -> dict[str, Any]:
        """Give the attributes that the root group keeps."""
        if isinstance(self.codec, JpegCodec):
            codec = {"name": "jpeg", "quality": self.codec.quality}
        else:
            codec = {"name": "png", "level": self.codec.level}
        return {
            "version": VERSION,
            "generation": self.generation,
            "codec": codec,
            "shard_frames": self.shard_frames,
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> Settings:
        """Read what the root group keeps."""
        match content:
            case {"version": int(version)} if version > VERSION:
                raise StoreError(
                    f"{where} was written by a newer aid_robot (store version {version}, this one "
                    f"reads up to {VERSION}): pip install -U aid-robot"
                )
            case {
                "version": int(),
                "generation": str(generation),
                "codec": {"name": "jpeg", "quality": int(quality)},
                "shard_frames": int(shard_frames),
            }:
                return cls(JpegCodec(quality), shard_frames, generation)
            case {
                "version": int(),
                "generation": str(generation),
                "codec": {"name": "png", "level": int(level)},
                "shard_frames": int(shard_frames),
            }:
                return cls(PngCodec(level), shard_frames, generation)
        raise StoreError(
            f"{where} has the settings {str(content)[:200]}, which this version doesn't know; "
            "the store is damaged: restore its zarr.json from a copy"
        )


@dataclass(frozen=True)
class Snapshot:
    """The episodes that were committed, and where they end."""

    # Exclusive ends of all episodes in frames, dropped ones too.
    ends: Ends
    # Arrays under data/.
    keys: tuple[str, ...] = ()
    # Numbers of episodes that were dropped and wait for `compact`.
    dropped: tuple[int, ...] = ()

    @cached_property
    def live(self) -> Ends:
        """Numbers of the episodes that count."""
        kept = np.ones(len(self.ends), bool)
        kept[list(self.dropped)] = False
        return np.flatnonzero(kept).astype(np.int64)

    @cached_property
    def starts(self) -> Ends:
        """First frames of all episodes."""
        return np.concatenate([[0], self.ends[:-1]]).astype(np.int64)[: len(self.ends)]

    @cached_property
    def lengths(self) -> Ends:
        """Frames of each live episode."""
        lengths: Ends = (self.ends - self.starts)[self.live]
        return lengths

    @property
    def total(self) -> int:
        """Frames of all episodes, dropped ones too."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def to_json(self) -> dict[str, Any]:
        """Give the metadata whose writing is the commit."""
        attributes = {"keys": list(self.keys), "dropped": list(self.dropped)}
        codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, CRC32C]
        return array_json((len(self.ends),), (ENDS_CHUNK,), "int64", 0, codecs, attributes)


def ends_name(chunk: int) -> str:
    """Name the object of a chunk of ends."""
    return f"{COMMIT}/c/{chunk}"


def put_ends(objects: Objects, ends: Ends, first: int) -> None:
    """Write the chunks of ends from episode number `first` on."""
    for chunk in range(first // ENDS_CHUNK, -(-len(ends) // ENDS_CHUNK)):
        here = ends[chunk * ENDS_CHUNK : (chunk + 1) * ENDS_CHUNK]
        padded = np.zeros(ENDS_CHUNK, "<i8")
        padded[: len(here)] = here
        objects.put(ends_name(chunk), [seal(padded.tobytes())])


def read_snapshot(objects: Objects, pinned: Snapshot | None = None) -> Snapshot:
    """Read the last commit, or the part of it that `pinned` names, whose ends are only counted."""
    metadata = get_json(objects, COMMIT)
    if metadata is None:
        raise StoreError(
            f"{objects.url} has no {COMMIT}; expected an episode store, made by "
            "EpisodeStore.create: check the path"
        )
    where = f"{objects.url}: {COMMIT}"
    count = shape_of(metadata.get("shape"), where)[0]
    attributes = metadata.get("attributes", {})
    if not isinstance(attributes, Mapping):
        raise StoreError(f"{where} has no attributes; the store is damaged: restore it from a copy")
    keys, dropped = attributes.get("keys", []), attributes.get("dropped", [])
    if pinned is not None:
        if len(pinned.ends) > count:
            raise StoreError(f"{objects.url} has lost episodes since it was opened: open it again")
        count, keys, dropped = len(pinned.ends), list(pinned.keys), list(pinned.dropped)
    sound = isinstance(dropped, list) and all(type(n) is int and 0 <= n < count for n in dropped)
    if not sound or not isinstance(keys, list):
        raise StoreError(
            f"{where} names dropped episodes or arrays that can't be; the store is damaged: "
            "restore it from a copy"
        )
    return Snapshot(
        _read_ends(objects, count, where),
        tuple(checked_key(key) for key in keys),
        tuple(dropped),
    )


def _read_ends(objects: Objects, count: int, where: str) -> Ends:
    # Chunk by chunk: memory is taken for what is there, not for what the metadata claim.
    chunks: list[Ends] = []
    for chunk in range(-(-count // ENDS_CHUNK)):
        data = objects.get(ends_name(chunk))
        if data is None or len(data) != 8 * ENDS_CHUNK + 4:
            raise StoreError(
                f"{where} says that there are {count} episodes, but its object {chunk} is missing "
                "or of a wrong size; the store is damaged: restore it from a copy"
            )
        try:
            chunks.append(np.frombuffer(unseal(data), "<i8").astype(np.int64))
        except StoreError as error:
            raise StoreError(
                f"{where}: object {chunk} is damaged: {error}; restore the store from a copy"
            ) from error
    ends = np.concatenate([*chunks, np.empty(0, np.int64)])[:count]
    if len(ends) and (ends[0] <= 0 or (np.diff(ends) <= 0).any() or ends[-1] >= 2**48):
        raise StoreError(
            f"{where} doesn't increase from episode to episode; the store is damaged: restore it "
            "from a copy"
        )
    return ends


def make_store(objects: Objects, settings: Settings, attributes: Mapping[str, Any]) -> None:
    """Write an empty store; the root comes last, so that half a store is none."""
    from aid_robot.data.store.records import KEY, records_json

    root = group_json({**attributes, "aid_robot": settings.to_json()})
    try:
        json.dumps(root, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(
            f"attributes can't be kept as JSON ({error}); expected texts, finite numbers, "
            "booleans, None, lists and dicts"
        ) from error
    try:
        put_json(objects, "data", group_json({}))
        put_json(objects, "meta", group_json({}))
        put_json(objects, KEY, records_json(0))
        put_json(objects, COMMIT, Snapshot(np.empty(0, np.int64)).to_json())
        put_json(objects, "", root)
        objects.settle()
    except WriteError as error:
        raise StoreFullError(
            f"no store can be made at '{objects.url}' ({error}); expected a place to write to: "
            "make room there, or choose another"
        ) from error
