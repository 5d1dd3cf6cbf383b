"""What a parquet file says of its own size, read from its footer.

PyArrow tells it too, but ends the whole process where a damaged footer contradicts itself: it lets
a C++ exception through. The footer is a struct in Thrift's compact protocol, of which a few fields
are needed here: https://parquet.apache.org/docs/file-format/metadata/
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from aid_robot.errors import TruncatedFileError

_MAGIC = b"PAR1"
# Thrift's numbers for the kinds of a field.
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_WHOLE = (4, 5, 6)
_MAX_DEPTH = 8

# Reads a field of a kind at a place; returns its value and the place behind it.
_Reader: TypeAlias = Callable[[bytes, int, int], tuple[Any, int]]


@dataclass(frozen=True)
class RowGroup:
    """The declared sizes of a part of a file."""

    rows: int
    # When decompressed, of all columns.
    bytes: int
    # Numbers or texts, of all columns; those of runs take no bytes until they are unpacked.
    values: int


def read_row_groups(path: Path) -> list[RowGroup]:
    """Read the sizes that the footer declares, none of them negative."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read()
        length = struct.unpack("<I", end[:4])[0] if len(end) == 8 else 0
        if end[4:] != _MAGIC or not 0 < length <= size - 12:
            raise TruncatedFileError(
                f"{path} is no whole parquet file ({size} bytes, without a footer at its end): "
                "copy it again from its source"
            )
        file.seek(size - 8 - length)
        footer = file.read(length)
    try:
        found, _ = _read_struct(footer, 0, {4: _read_groups})
        groups: list[RowGroup] = found.get(4, [])
        return groups
    except (IndexError, ValueError) as error:
        raise TruncatedFileError(
            f"{path} has a damaged footer ({error}): copy the file again from its source"
        ) from error


def _read_groups(data: bytes, place: int, kind: int) -> tuple[list[RowGroup], int]:
    structs, place = _read_list(data, place, kind, {1: _read_columns, 2: _read_size, 3: _read_size})
    groups = [RowGroup(found.get(3, 0), found.get(2, 0), found.get(1, 0)) for found in structs]
    return groups, place


def _read_columns(data: bytes, place: int, kind: int) -> tuple[int, int]:
    """Read how many values the columns of a row group have together."""
    structs, place = _read_list(data, place, kind, {3: _read_column})
    return sum(found.get(3, 0) for found in structs), place


def _read_column(data: bytes, place: int, kind: int) -> tuple[int, int]:
    if kind != _STRUCT:
        raise ValueError("a column is no struct")
    found, place = _read_struct(data, place, {5: _read_size})
    return found.get(5, 0), place


def _read_size(data: bytes, place: int, kind: int) -> tuple[int, int]:
    size, place = _read_whole(data, place)
    if kind not in _WHOLE or size < 0:
        raise ValueError(f"a size is {size}")
    return size, place


def _read_list(
    data: bytes, place: int, kind: int, readers: Mapping[int, _Reader]
) -> tuple[list[dict[int, Any]], int]:
    """Read fields of each struct in a list."""
    count, inner, place = _read_list_head(data, place)
    if kind != _LIST or (count and inner != _STRUCT):
        raise ValueError("a list of structs is something else")
    structs = []
    for _ in range(count):
        found, place = _read_struct(data, place, readers)
        structs.append(found)
    return structs, place


def _read_struct(
    data: bytes, place: int, readers: Mapping[int, _Reader], depth: int = 0
) -> tuple[dict[int, Any], int]:
    """Read the fields of a struct that there are readers for, by their number."""
    found: dict[int, Any] = {}
    number = 0
    while head := data[place]:
        place, kind = place + 1, head & 15
        if head >> 4:
            number += head >> 4
        else:
            number, place = _read_whole(data, place)
        if number in readers:
            found[number], place = readers[number](data, place, kind)
        else:
            place = _skip(data, place, kind, depth)
    return found, place + 1


def _skip(data: bytes, place: int, kind: int, depth: int) -> int:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if kind in _WHOLE:
        while data[place] > 127:
            place += 1
        return place + 1
    if kind == _BINARY:
        length, place = _read_varint(data, place)
        return place + length
    if kind == _STRUCT:
        return _read_struct(data, place, {}, depth + 1)[1]
    if kind in (_LIST, _SET):
        count, inner, place = _read_list_head(data, place)
        # In a list even booleans take a byte.
        inner = _BYTE if inner in (_TRUE, _FALSE) else inner
        for _ in range(count):
            place = _skip(data, place, inner, depth + 1)
        return place
    sizes = {_TRUE: 0, _FALSE: 0, _BYTE: 1, _DOUBLE: 8}
    if kind not in sizes:
        raise ValueError(f"there is no kind {kind} of fields")
    return place + sizes[kind]


def _read_list_head(data: bytes, place: int) -> tuple[int, int, int]:
    """Read the number of entries, and their kind."""
    head, place = data[place], place + 1
    count = head >> 4
    if count == 15:
        count, place = _read_varint(data, place)
    if count > len(data):
        raise ValueError(f"a list has {count} entries")
    return count, head & 15, place


def _read_whole(data: bytes, place: int) -> tuple[int, int]:
    number, place = _read_varint(data, place)
    return (number >> 1) ^ -(number & 1), place


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
        shift += 7
        if shift > 63:
            raise ValueError("a number doesn't end")
