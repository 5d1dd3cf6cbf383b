"""Parse `tf.train.Example` messages without TensorFlow or protobuf.

    Example  { Features features = 1 }          Features { map<string, Feature> feature = 1 }
    Feature  { BytesList = 1 | FloatList = 2 | Int64List = 3 }, each { repeated value = 1 }

The encoding is protobuf's: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from aid_robot.errors import DataFormatError

# Bytes are views into the message, so that parsing copies no image.
Values: TypeAlias = list[memoryview] | npt.NDArray[np.float32] | npt.NDArray[np.int64]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


def parse_example(message: bytes, name: str) -> dict[str, Values]:
    """Parse a message to its features by key; `name` is what errors call it."""
    try:
        return dict(
            _entry(entry)
            for features in _messages(memoryview(message), 1)
            for entry in _messages(features, 1)
        )
    except _WireError as error:
        raise DataFormatError(
            f"{name} is no tf.train.Example: {error}; expected a record of a TFDS data set"
        ) from error


class _WireError(Exception):
    """Bytes are not a protobuf message of the expected kind."""


def _entry(entry: memoryview) -> tuple[str, Values]:
    """Parse an entry of the map: key = 1, value = 2, either of them may be absent."""
    key, values = "", _feature(memoryview(b""))
    for number, kind, value in _fields(entry):
        if number == 1:
            try:
                key = str(_expect_bytes(number, kind, value), "utf-8")
            except UnicodeDecodeError as error:
                raise _WireError(f"a key is not UTF-8 ({error})") from error
        elif number == 2:
            values = _feature(_expect_bytes(number, kind, value))
    return key, values


def _feature(feature: memoryview) -> Values:
    values: Values = []
    for number, kind, value in _fields(feature):
        # The last one counts, as in every protobuf oneof.
        if number == _BYTES_LIST:
            values = list(_messages(_expect_bytes(number, kind, value), 1))
        elif number == _FLOAT_LIST:
            values = _floats(_expect_bytes(number, kind, value))
        elif number == _INT64_LIST:
            values = _integers(_expect_bytes(number, kind, value))
    return values


def _floats(values: memoryview) -> npt.NDArray[np.float32]:
    parts = []
    for number, kind, value in _fields(values):
        if number != 1:
            continue
        # Packed floats and single ones both are valid, in any mixture.
        if kind not in (_LENGTH, _FIXED32) or isinstance(value, int) or len(value) % 4:
            raise _WireError("a list of floats holds something else")
        parts.append(np.frombuffer(value, "<f4"))
    return np.concatenate(parts, dtype=np.float32) if parts else np.empty(0, np.float32)


def _integers(values: memoryview) -> npt.NDArray[np.int64]:
    integers = []
    for number, kind, value in _fields(values):
        if number != 1:
            continue
        if isinstance(value, int) and kind == _VARINT:
            integers.append(value)
        elif isinstance(value, memoryview) and kind == _LENGTH:
            place = 0
            while place < len(value):
                integer, place = _varint(value, place)
                integers.append(integer)
        else:
            raise _WireError("a list of integers holds something else")
    # Negative numbers are written as their two's complement in 64 bits.
    return np.array(integers, np.uint64).view(np.int64)


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, kind, value in _fields(message):
        if number == wanted:
            yield _expect_bytes(number, kind, value)


def _expect_bytes(number: int, kind: int, value: int | memoryview) -> memoryview:
    if kind != _LENGTH or isinstance(value, int):
        raise _WireError(f"field {number} has wire type {kind}, not {_LENGTH}")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Give each field as (number, wire type, integer or bytes)."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            integer, place = _varint(message, place)
            yield number, kind, integer
            continue
        if kind == _LENGTH:
            size, place = _varint(message, place)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise _WireError(f"field {number} has the unknown wire type {kind}")
        if size > len(message) - place:
            raise _WireError(f"field {number} is longer than what holds it")
        yield number, kind, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Read an integer of 7 bits a byte, lowest first; return it and the place after it."""
    integer = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise _WireError("it ends within an integer")
        byte = message[place]
        place += 1
        integer |= (byte & 0x7F) << shift
        if byte < 0x80:
            if integer >= 1 << 64:
                break
            return integer, place
    raise _WireError("an integer has more than 64 bits")
