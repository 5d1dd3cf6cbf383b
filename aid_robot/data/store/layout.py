"""What one array of a store looks like: its zarr v3 metadata, written and checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aid_robot.data.frames import MAX_PIXELS
from aid_robot.data.store.codecs import ChunkCodec, JpegCodec, PngCodec, RowsCodec, codec_from_json
from aid_robot.data.store.objects import Objects
from aid_robot.errors import StoreError

METADATA = "zarr.json"
# More than any row of a recording; metadata that say more are damaged or hostile.
MAX_ROW_BYTES = 3 * MAX_PIXELS
MAX_CHUNK_BYTES = max(64 * 2**20, MAX_ROW_BYTES)
MAX_SHARD_CHUNKS = 2**16
MAX_METADATA_BYTES = 64 * 2**20
# Rows are gathered into chunks of about this size, and chunks into shards.
CHUNK_BYTES = 64 * 1024
CHUNKS_PER_SHARD = 64
KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*")
# The types of zarr v3 that numpy has under the same name.
TYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
         "float16", "float32", "float64")  # fmt: skip


@dataclass(frozen=True)
class ArrayLayout:
    """A sharded array whose first axis is time."""

    # Of one row, without the time axis: (H, W, 3) for a camera.
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    codec: ChunkCodec
    # Rows that are compressed together.
    chunk_rows: int
    # Chunks that are stored in one object.
    shard_chunks: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    # Between the parts of a chunk's key.
    separator: str = "."

    @classmethod
    def of_frames(
        cls, size: tuple[int, int], codec: JpegCodec | PngCodec, shard_frames: int
    ) -> ArrayLayout:
        """Lay out a camera of a height and width: a chunk a frame."""
        return cls((*size, 3), np.dtype(np.uint8), codec, 1, shard_frames)

    @classmethod
    def of_rows(
        cls,
        rows: npt.NDArray[Any],
        *,
        single: bool = False,
        attributes: Mapping[str, Any] | None = None,
    ) -> ArrayLayout:
        """Lay out an array (T, ...) like this one; `single` gives each row a chunk of its own."""
        row_bytes = max(1, rows.dtype.itemsize * math.prod(rows.shape[1:]))
        chunk_rows = 1 if single else max(1, min(256, CHUNK_BYTES // row_bytes))
        shape, dtype = tuple(rows.shape[1:]), rows.dtype.newbyteorder("=")
        return cls(shape, dtype, RowsCodec(), chunk_rows, CHUNKS_PER_SHARD, attributes or {})

    @property
    def shard_rows(self) -> int:
        """Rows that are stored in one object."""
        return self.chunk_rows * self.shard_chunks

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of what the codec takes at once."""
        return (self.chunk_rows, *self.row_shape)

    @property
    def largest_chunk(self) -> int:
        """Bytes that no compressed chunk exceeds, however noisy."""
        return 2 * math.prod(self.chunk_shape) * self.dtype.itemsize + 2**16

    @property
    def fill(self) -> Any:
        """What rows hold that were never written."""
        return self.dtype.type(np.nan if self.dtype.kind == "f" else 0)

    @property
    def is_camera(self) -> bool:
        """Whether the rows are frames."""
        return self.codec.frame

    def object_name(self, shard: int) -> str:
        """Name the object of a shard within the array's folder."""
        return self.separator.join(["c", str(shard), *("0" for _ in self.row_shape)])

    def same_rows(self, other: ArrayLayout) -> bool:
        """Whether rows of one fit the other."""
        return self.row_shape == other.row_shape and self.dtype == other.dtype

    def describe(self) -> str:
        """Say what a row is, for error messages."""
        if self.is_camera:
            return size_text(self.row_shape[:2])
        return f"{self.dtype} of shape {self.row_shape} a frame"

    def to_json(self, rows: int) -> dict[str, Any]:
        """Give the zarr v3 metadata of an array of so many rows."""
        fill: Any = "NaN" if self.dtype.kind == "f" else self.dtype.type(0).item()
        sharding = {
            "chunk_shape": self.chunk_shape,
            "codecs": self.codec.to_json(),
            "index_codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "index_location": "end",
        }
        names = ["time", "y", "x", "channel"] if self.is_camera else None
        return array_json(
            (rows, *self.row_shape),
            (self.shard_rows, *self.row_shape),
            self.dtype.name,
            fill,
            [{"name": "sharding_indexed", "configuration": sharding}],
            self.attributes,
            self.separator,
            names,
        )

    @classmethod
    def from_json(cls, metadata: Mapping[str, Any], where: str) -> ArrayLayout | None:
        """Read zarr v3 metadata, None where only zarr itself can read such an array.

        StoreError where they contradict themselves or claim sizes that no recording has.
        """
        match metadata:
            case {
                "data_type": str(data_type),
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
                "chunk_key_encoding": {"name": "default", "configuration": dict(keys)},
                "codecs": [{"name": "sharding_indexed", "configuration": dict(sharding)}],
            } if data_type in TYPES:
                pass
            case _:
                return None
        codec = codec_from_json(sharding.get("codecs"))
        index_codecs = sharding.get("index_codecs")
        separator = keys.get("separator", "/")
        if codec is None or separator not in (".", "/"):
            return None
        if sharding.get("index_location", "end") != "end":
            return None
        match index_codecs:
            case [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]:
                pass
            case _:
                return None
        shape = shape_of(metadata.get("shape"), where)
        chunk, shard = (
            shape_of(sharding.get("chunk_shape"), where, least=1),
            shape_of(shard, where, least=1),
        )
        if not len(shape) == len(chunk) == len(shard) or chunk[0] > shard[0]:
            raise StoreError(
                f"{where} has shape {shape}, shards {shard} and chunks {chunk}, which don't fit "
                "together: the store is damaged, restore it from a copy"
            )
        if chunk[1:] != shape[1:] or shard[1:] != shape[1:] or shard[0] % chunk[0]:
            return None
        dtype = np.dtype(data_type)
        if codec.frame and (dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or chunk[0] != 1):
            return None
        attributes = metadata.get("attributes")
        layout = cls(
            shape[1:],
            dtype,
            codec,
            chunk[0],
            shard[0] // chunk[0],
            attributes if isinstance(attributes, dict) else {},
            separator,
        )
        row_bytes = math.prod(layout.row_shape) * dtype.itemsize
        too_large = (
            row_bytes > MAX_ROW_BYTES
            or row_bytes * layout.chunk_rows > MAX_CHUNK_BYTES
            or layout.shard_chunks > MAX_SHARD_CHUNKS
        )
        if too_large:
            raise StoreError(
                f"{where} claims rows of shape {layout.row_shape}, {layout.chunk_rows} to a chunk "
                f"and {layout.shard_chunks} chunks to a shard, more than any recording has: the "
                "store is damaged, or made to do harm"
            )
        return layout


def array_json(
    shape: tuple[int, ...],
    chunk_shape: tuple[int, ...],
    data_type: str,
    fill: Any,
    codecs: Sequence[Mapping[str, Any]],
    attributes: Mapping[str, Any],
    separator: str = "/",
    names: list[str] | None = None,
) -> dict[str, Any]:
    """Give the zarr v3 metadata of an array."""
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
        "fill_value": fill,
        "codecs": list(codecs),
        "attributes": dict(attributes),
    }
    if names:
        metadata["dimension_names"] = names
    return metadata


def group_json(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Give the zarr v3 metadata of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def put_json(objects: Objects, key: str, content: Mapping[str, Any]) -> None:
    """Write the metadata of a group or an array."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    objects.put(f"{key}/{METADATA}" if key else METADATA, [text.encode()])


def get_json(objects: Objects, key: str) -> dict[str, Any] | None:
    """Read the metadata of a group or an array, None where there is none."""
    name = f"{key}/{METADATA}" if key else METADATA
    data = objects.get(name)
    if data is None:
        return None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(
            f"{objects.url}: {name} is no JSON ({error}); the store is damaged: restore it from a "
            "copy"
        ) from error
    if not isinstance(content, dict):
        raise StoreError(
            f"{objects.url}: {name} holds a JSON {type(content).__name__}; expected an object: "
            "the store is damaged, restore it from a copy"
        )
    return content


def read_layout(objects: Objects, key: str) -> tuple[ArrayLayout, int]:
    """Read how an array of the store is laid out, and how many rows it is said to have."""
    metadata = get_json(objects, key)
    where = f"{objects.url}: {key}"
    layout = None if metadata is None else ArrayLayout.from_json(metadata, where)
    if metadata is None or layout is None:
        raise StoreError(
            f"{where}/{METADATA} is missing or not as this package writes it; the store is "
            "damaged: restore it from a copy"
        )
    return layout, shape_of(metadata.get("shape"), where)[0]


def shape_of(value: Any, where: str, least: int = 0) -> tuple[int, ...]:
    """Check a shape that was read from a file."""
    sound = isinstance(value, list) and 1 <= len(value) <= 16
    if not sound or not all(type(n) is int and least <= n < 2**48 for n in value):
        raise StoreError(
            f"{where} has the shape {value!r}; expected a list of sizes: the store is damaged, "
            "restore it from a copy"
        )
    return tuple(value)


def checked_key(key: object) -> str:
    """Let a name of an array pass that can be a folder and nothing else."""
    if not isinstance(key, str) or len(key) > 200 or not KEY.fullmatch(key):
        raise StoreError(
            f"{key!r} can't be the name of a camera or array; expected letters, digits, '_', '-', "
            "'.' and spaces, the first of them a letter, digit or '_'"
        )
    return key


def size_text(size: tuple[int, ...]) -> str:
    """Write a height and width as a person does: 640x480."""
    return f"{size[1]}x{size[0]}"
