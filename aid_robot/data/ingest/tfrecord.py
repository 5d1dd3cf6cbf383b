"""Read TFRecord files without TensorFlow.

A file is records one after the other, each (little-endian)

    uint64 length | uint32 masked CRC-32C of length | data | uint32 masked CRC-32C of data

https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

from __future__ import annotations

import struct
from array import array
from functools import cached_property
from pathlib import Path
from typing import IO

import google_crc32c

from aid_robot.errors import DataFormatError, TruncatedFileError

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
SMALLEST_RECORD = HEADER.size + FOOTER.size
_LENGTH = struct.Struct("<Q")
_GZIP_MARK = b"\x1f\x8b\x08"


def masked_crc(data: bytes) -> int:
    """Compute TFRecord's checksum: CRC-32C, rotated right by 15 bits, plus a constant."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


class RecordFile:
    """The records of one TFRecord file.

    Finding them reads 12 bytes a record; only `read` reads a record, and it checks its checksum.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return len(self.offsets)

    @cached_property
    def offsets(self) -> array[int]:
        """Where each record begins."""
        offsets = array("Q")
        with self._open() as file:
            size = self.path.stat().st_size
            offset = 0
            while offset < size:
                offsets.append(offset)
                offset += SMALLEST_RECORD + self._length(file, offset, size, len(offsets) - 1)
        return offsets

    def read(self, index: int) -> bytes:
        """Read the record at `index`, 0 <= index < len(self)."""
        offset = self.offsets[index]
        with self._open() as file:
            length = self._length(file, offset, self.path.stat().st_size, index)
            data = file.read(length)
            footer = file.read(FOOTER.size)
        if len(data) < length or len(footer) < FOOTER.size:
            raise self._cut(index, offset)
        if FOOTER.unpack(footer)[0] != masked_crc(data):
            raise self._failed(index, offset)
        return data

    def _open(self) -> IO[bytes]:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise DataFormatError(
                f"{self.path} can't be opened ({error.strerror}); expected a TFRecord file"
            ) from error

    def _length(self, file: IO[bytes], offset: int, size: int, index: int) -> int:
        """Read the length of the record at `offset`, checked against the size of the file."""
        file.seek(offset)
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            raise self._cut(index, offset)
        length, crc = HEADER.unpack(header)
        if crc != masked_crc(_LENGTH.pack(length)):
            if offset == 0 and header.startswith(_GZIP_MARK):
                raise DataFormatError(
                    f"{self.path} is compressed; expected a plain TFRecord file: unpack it (gunzip)"
                )
            raise self._failed(index, offset)
        if length > size - offset - SMALLEST_RECORD:
            raise self._cut(index, offset)
        return int(length)

    def _cut(self, index: int, offset: int) -> TruncatedFileError:
        return TruncatedFileError(
            f"{self.path} ends within record {index}, which begins at byte {offset}: only {index} "
            "whole records can be read; copy the file again from its source"
        )

    def _failed(self, index: int, offset: int) -> TruncatedFileError:
        return TruncatedFileError(
            f"{self.path} fails its checksum in record {index}, which begins at byte {offset}; "
            "the file is damaged or no TFRecord file: copy it again from its source"
        )
