"""The parquet files of LeRobot data sets: their sizes checked, their rows found by episode."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aid_robot.data.ingest.parquet_footer import read_row_groups
from aid_robot.errors import DataFormatError, TruncatedFileError

T = TypeVar("T")

# Parquet packs repeated values into next to nothing, so a small file may unpack to any size. What
# is recorded changes from row to row: this much a byte is never reached beyond the first 512 MiB.
_FREE_BYTES, _BYTES_A_BYTE = 512 * 2**20, 64


class ParquetTable:
    """A parquet file whose declared sizes fit its own.

    Texts are read as dictionaries, in which one that is repeated takes memory once. Arrow can't do
    so for those in lists and structs; there it stops at 2 GiB.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise DataFormatError(
                f"there is no {path}, which the data set's meta/ names: copy it too"
            )
        self.groups = read_row_groups(path)
        size = path.stat().st_size
        limit = max(_FREE_BYTES, _BYTES_A_BYTE * size)
        for number, group in enumerate(self.groups):
            unpacked = max(group.bytes, 8 * group.values, 8 * group.rows)
            if unpacked > limit:
                raise DataFormatError(
                    f"{path} has {size} bytes, and row group {number} would unpack to {unpacked} "
                    f"or more; expected at most {limit}: it is damaged, or made to fill the memory"
                )
        schema = _sound(path, lambda: pq.read_schema(path))
        texts = [field.name for field in schema if is_text(field.type)]
        self._file = _sound(path, lambda: pq.ParquetFile(path, read_dictionary=texts))
        self.schema: pa.Schema = self._file.schema_arrow
        names = self.schema.names
        if len(set(names)) < len(names):
            raise DataFormatError(f"{path} has two columns of one name: export the data set again")

    def read(self, columns: Sequence[str], group: int | None = None) -> pa.Table:
        """Read columns, of one row group or all."""
        missing = [name for name in columns if name not in self.schema.names]
        if missing:
            raise DataFormatError(
                f"{self.path} has no column {', '.join(missing)}, but "
                f"{', '.join(self.schema.names)}; expected what meta/info.json describes: copy "
                "both again from their source"
            )
        groups = range(len(self.groups)) if group is None else [group]
        table = _sound(
            self.path,
            lambda: self._file.read_row_groups(groups, list(columns), use_threads=False),
        )
        return table.select(list(columns))


class FrameTable:
    """A file with a row a frame, of one episode after the other. May be shared by threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = ParquetTable(path)
        self._ends = list(accumulate(group.rows for group in self._table.groups))
        self._lock = threading.Lock()
        # What was read last: some writers put all episodes into one row group.
        self._last: tuple[int, tuple[str, ...], pa.Table] | None = None

    def rows(self, episode: int, columns: Sequence[str]) -> pa.Table:
        """Read columns of an episode."""
        if episode not in self._spans:
            raise DataFormatError(
                f"{self.path} has no rows of episode {episode}, though meta/ says so: copy both "
                "again from their source"
            )
        start, stop = self._spans[episode]
        parts = []
        group = bisect_right(self._ends, start)
        while start < stop:
            offset = self._ends[group - 1] if group else 0
            part = self._group(group, tuple(columns)).slice(start - offset, stop - start)
            parts.append(part)
            start, group = start + len(part), group + 1
        return pa.concat_tables(parts)

    @cached_property
    def _spans(self) -> dict[int, tuple[int, int]]:
        """First and last row (exclusive) of each episode."""
        column = self._table.read(["episode_index"])["episode_index"]
        numbers = to_whole(column, f"'episode_index' of {self.path}")
        if len(numbers) != sum(self._ends[-1:]):
            raise TruncatedFileError(
                f"{self.path} has {len(numbers)} rows and declares {sum(self._ends[-1:])}; the "
                "file is damaged: copy it again from its source"
            )
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1))
        stops = np.append(starts[1:], len(numbers))
        spans = {
            int(numbers[start]): (int(start), int(stop))
            for start, stop in zip(starts, stops, strict=True)
        }
        if len(spans) < len(starts):
            raise DataFormatError(
                f"{self.path} has the rows of an episode in several places; expected them "
                "together: export the data set again"
            )
        return spans

    def _group(self, group: int, columns: tuple[str, ...]) -> pa.Table:
        with self._lock:
            if self._last is None or self._last[:2] != (group, columns):
                self._last = None
                self._last = group, columns, self._table.read(columns, group)
            return self._last[2]


def to_numpy(column: pa.ChunkedArray, where: str) -> npt.NDArray[Any]:
    """Turn a column of numbers, or of equally long lists of them, into an array (T, ...)."""
    values = column.combine_chunks()
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    shape = [len(values)]
    while is_list(values.type) and not values.null_count:
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) > 1:
            raise DataFormatError(
                f"{where} has lists of {lengths[0]} and of {lengths[1]} values; expected a fixed "
                "shape: export the data set again"
            )
        shape.append(lengths[0] if lengths else 0)
        values = values.flatten()
    if values.null_count:
        raise DataFormatError(
            f"{where} lacks {values.null_count} values; expected no gaps: export the data set again"
        )
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataFormatError(f"{where} holds {kind}; expected numbers")
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array.reshape(shape)


def to_whole(column: pa.ChunkedArray, where: str) -> npt.NDArray[np.integer[Any]]:
    """Turn a column of whole numbers into an array (T,)."""
    array = to_numpy(column, where)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataFormatError(f"{where} holds {column.type}; expected whole numbers")
    return array


def to_texts(column: pa.ChunkedArray, where: str) -> list[str]:
    """Turn a column of texts into a list, blank where there is none."""
    if not is_text(column.type):
        raise DataFormatError(f"{where} holds {column.type}; expected texts")
    texts: list[str] = []
    try:
        for chunk in column.chunks:
            if pa.types.is_dictionary(chunk.type):
                words = chunk.dictionary.to_pylist()
                places = chunk.indices.to_pylist()
                texts += [words[place] or "" if place is not None else "" for place in places]
            else:
                texts += [text or "" for text in chunk.to_pylist()]
    except UnicodeDecodeError as error:
        raise DataFormatError(
            f"{where} holds a text that is not UTF-8 ({error}): copy it again from its source"
        ) from error
    return texts


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds texts, as dictionaries or plain."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists, of whatever kind."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _sound(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    # Arrow raises OSError for most damage, and MemoryError where a page declares too much.
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise TruncatedFileError(
            f"{path} is no whole parquet file ({error}): copy it again from its source"
        ) from error
