"""Read arrays of zarr version 2 from a source that isn't trusted.

    <array>/.zarray    JSON: shape, chunks, dtype, order, compressor, fill_value
    <array>/<i>.<j>    a chunk, compressed; one that holds only the fill value may be absent

The zarr package reads these too. But it decompresses whatever a chunk turns out to hold, looks up
whatever codec a header names (one of them unpickles), and allocates what a shape declares. Here a
chunk decompresses to its declared size or not at all.
"""

from __future__ import annotations

import bz2
import itertools
import json
import lzma
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import numcodecs
import numpy as np
import numpy.typing as npt

from aid_robot.data.ingest.store_files import Files
from aid_robot.errors import DataFormatError, TruncatedFileError
from aid_robot.extras import require

Array: TypeAlias = npt.NDArray[Any]

# Above what replay buffers have, below what hurts.
MAX_BLOCK_BYTES, MAX_ROWS_BYTES = 2**28, 2**30
_MAX_HEADER_BYTES, _MAX_CHUNKS_A_BLOCK = 2**20, 2**12

# One image a chunk; the names by which imagecodecs offers its codecs to numcodecs.
_IMAGE_COMPRESSORS = {
    f"imagecodecs_{kind}": f"{kind}_decode" for kind in ("jpegxl", "jpeg2k", "jpeg", "png", "webp")
}


class NotNumbersError(DataFormatError):
    """An array holds texts or objects, which are not read here."""


class ZarrV2Array:
    """An array (T, ...), read by its rows; its last block of rows is kept.

    A block is the rows that lie in the same chunks.
    """

    def __init__(self, files: Files, name: str) -> None:
        self._files, self.name = files, name
        self._kept: tuple[int, Array] | None = None
        header = files.read(f"{name}/.zarray", _MAX_HEADER_BYTES)
        try:
            self._parse(json.loads(header))
        except NotNumbersError:
            raise
        # JSON can hold anything in any place.
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise DataFormatError(
                f"{self} has a header that can't be read ({type(error).__name__}: "
                f"{str(error)[:200]}); expected an array of zarr version 2: save it again"
            ) from error

    def __str__(self) -> str:
        return f"{self.name} of {self._files}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Size of a row in memory."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> Array:
        """Read rows `start` to `stop` (exclusive)."""
        size = (stop - start) * self.row_bytes
        if size > MAX_ROWS_BYTES:
            raise DataFormatError(
                f"{self} has {size} bytes in rows {start} to {stop}; expected at most "
                f"{MAX_ROWS_BYTES} an episode: split or shrink it"
            )
        taken = np.empty((stop - start, *self.shape[1:]), self.dtype)
        length = self.chunks[0]
        for number in self._numbers(start, stop):
            first, last = max(start, number * length), min(stop, (number + 1) * length)
            block = self._block(number)
            taken[first - start : last - start] = block[
                first - number * length : last - number * length
            ]
        return taken

    def absent(self, start: int, stop: int) -> Iterator[str]:
        """Name the chunks of rows `start` to `stop` (exclusive) that are not there."""
        for number in self._numbers(start, stop):
            for place in self._places:
                name = self._chunk(number, place)
                if not self._files.has(name):
                    yield name

    def count_chunks(self, start: int, stop: int) -> int:
        """Count the chunks that rows `start` to `stop` (exclusive) lie in."""
        return len(self._numbers(start, stop)) * len(self._places)

    def _numbers(self, start: int, stop: int) -> range:
        """Number the blocks that rows lie in."""
        return range(start // self.chunks[0], -(-stop // self.chunks[0]))

    def _parse(self, header: dict[str, Any]) -> None:
        if header["zarr_format"] != 2:
            raise ValueError(f"version {header['zarr_format']}")
        self.dtype = np.dtype(str(header["dtype"]))
        if self.dtype.kind not in "biuf":
            raise NotNumbersError(f"{self} holds {self.dtype}; expected numbers")
        if header.get("filters"):
            raise ValueError(f"filters {str(header['filters'])[:100]}")
        self.shape = _sizes(header["shape"])
        self.chunks = _sizes(header["chunks"])
        if not 0 < len(self.shape) == len(self.chunks) or 0 in self.chunks:
            raise ValueError(f"shape {self.shape}, chunks {self.chunks}")
        self._order = {"C": "C", "F": "F"}[header["order"]]
        self._separator = {".": ".", "/": "/"}[header.get("dimension_separator", ".")]
        fill = header["fill_value"]
        self._fill = np.array(0 if fill is None else float(fill), self.dtype)
        self._compressor = (header["compressor"] or {"id": None})["id"]
        if self._compressor in _IMAGE_COMPRESSORS:
            require("imagecodecs", "imagecodecs")
        elif self._compressor not in (None, *_DECLARED_SIZE, *_STREAMS):
            known = ", ".join((*_DECLARED_SIZE, *_STREAMS, *_IMAGE_COMPRESSORS))
            raise ValueError(f"compressed by '{self._compressor}', not by one of {known}")
        counts = [-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True)]
        whole = [count * chunk for count, chunk in zip(counts[1:], self.chunks[1:], strict=True)]
        size = self.chunks[0] * math.prod(whole) * self.dtype.itemsize
        if size > MAX_BLOCK_BYTES or math.prod(counts[1:]) > _MAX_CHUNKS_A_BLOCK:
            raise ValueError(
                f"shape {self.shape} in chunks {self.chunks}: more than {MAX_BLOCK_BYTES} bytes or "
                f"{_MAX_CHUNKS_A_BLOCK} chunks are to be read for one row"
            )
        # Of a block's chunks, in all dimensions but time.
        self._places = list(itertools.product(*(range(count) for count in counts[1:])))

    def _chunk(self, number: int, place: tuple[int, ...]) -> str:
        return f"{self.name}/{self._separator.join(map(str, (number, *place)))}"

    def _block(self, number: int) -> Array:
        kept = self._kept
        if kept is not None and kept[0] == number:
            return kept[1]
        block = np.empty((self.chunks[0], *self.shape[1:]), self.dtype)
        for place in self._places:
            corner = [at * size for at, size in zip(place, self.chunks[1:], strict=True)]
            window = tuple(
                slice(at, at + size) for at, size in zip(corner, self.chunks[1:], strict=True)
            )
            part = block[(slice(None), *window)]
            name = self._chunk(number, place)
            if self._files.has(name):
                chunk = self._decode(name)
                # Chunks at the edge are as large as the others.
                part[...] = chunk[tuple(slice(size) for size in part.shape)]
            else:
                part[...] = self._fill
        self._kept = (number, block)
        return block

    def _decode(self, name: str) -> Array:
        size = math.prod(self.chunks) * self.dtype.itemsize
        # What can't be compressed grows by a little.
        encoded = self._files.read(name, size + size // 8 + 2**16)
        try:
            if self._compressor in _IMAGE_COMPRESSORS:
                return self._decode_image(encoded)
            content = _decompress(encoded, self._compressor, size)
            chunk: Array = np.frombuffer(content, self.dtype)
            return chunk.reshape(self.chunks, order=self._order)  # type: ignore[call-overload,no-any-return]
        # Each codec has errors of its own.
        except Exception as error:
            raise TruncatedFileError(
                f"{name} of {self._files} is no whole chunk ({str(error)[:200]}); expected {size} "
                f"bytes compressed by {self._compressor}: copy it again from its source"
            ) from error

    def _decode_image(self, encoded: bytes) -> Array:
        shape = self.chunks[1:] if self.chunks[0] == 1 else self.chunks
        decode = getattr(
            require("imagecodecs", "imagecodecs"), _IMAGE_COMPRESSORS[self._compressor]
        )
        image: Array = np.asarray(decode(encoded, out=np.empty(shape, self.dtype)))
        if image.shape != shape or image.dtype != self.dtype:
            raise ValueError(f"an image of shape {image.shape} and type {image.dtype}")
        return image.reshape(self.chunks)


def _sizes(value: object) -> tuple[int, ...]:
    """Check a shape; the limit is what an index of numpy's can be."""
    if not isinstance(value, list) or not all(type(x) is int and 0 <= x < 2**48 for x in value):
        raise ValueError(f"a shape of {str(value)[:100]}")
    return tuple(value)


def _decompress(encoded: bytes, compressor: str | None, size: int) -> bytes | Array:
    """Decompress to exactly `size` bytes; what would become more is refused before it does."""
    content: bytes | Array
    if compressor is None:
        content = encoded
    elif compressor in _DECLARED_SIZE:
        if (declared := _DECLARED_SIZE[compressor](encoded)) != size:
            raise ValueError(f"it declares {declared} bytes")
        content = np.empty(size, np.uint8)
        numcodecs.get_codec({"id": compressor}).decode(encoded, out=content)
    else:
        stream = _STREAMS[compressor]()
        content = stream.decompress(encoded, size + 1)
        # The end has a checksum; where there is more than fits it isn't reached.
        if not stream.eof:
            raise ValueError(f"it ends early, or has more than {size} bytes")
    if len(content) != size:
        raise ValueError(f"it has {len(content)} bytes")
    return content


def _blosc_size(encoded: bytes) -> int:
    if int.from_bytes(encoded[12:16], "little") != len(encoded):
        raise ValueError("it is cut off")
    return int.from_bytes(encoded[4:8], "little")


def _lz4_size(encoded: bytes) -> int:
    return int.from_bytes(encoded[:4], "little")


def _zstd_size(encoded: bytes) -> int:
    """Read the content size in a frame's header, RFC 8878 section 3.1.1.1."""
    descriptor = encoded[4]
    single_segment = descriptor >> 5 & 1
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    width = (single_segment, 2, 4, 8)[descriptor >> 6]
    if not width:
        raise ValueError("it doesn't declare its size")
    return int.from_bytes(encoded[start : start + width], "little") + (256 if width == 2 else 0)


# Those of numcodecs' compressors that say how much they hold ...
_DECLARED_SIZE: Mapping[str, Callable[[bytes], int]] = {
    "blosc": _blosc_size,
    "lz4": _lz4_size,
    "zstd": _zstd_size,
}
# ... and those that don't, but stop when told to.
_STREAMS: Mapping[str, Callable[[], Any]] = {
    "zlib": zlib.decompressobj,
    "gzip": partial(zlib.decompressobj, zlib.MAX_WBITS + 16),
    "bz2": bz2.BZ2Decompressor,
    "lzma": partial(lzma.LZMADecompressor, memlimit=2**28),
}
