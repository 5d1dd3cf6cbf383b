"""Write TFRecord files and tf.train.Example messages, from their specifications alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

FeatureValues = Sequence[bytes] | Sequence[float] | Sequence[int]


def _crc_of_byte(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


_CRC_TABLE = [_crc_of_byte(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    """Compute CRC-32C (RFC 3720: polynomial 0x1EDC6F41, reflected)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def checksum(data: bytes) -> bytes:
    """Write the masked checksum of some bytes."""
    crc = crc32c(data)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def field(number: int, content: bytes) -> bytes:
    """Write a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(values: FeatureValues, *, packed: bool = True) -> bytes:
    """Write a Feature; the type of the first value decides which list it holds."""
    if not values:
        return b""
    if isinstance(values[0], bytes):
        return field(1, b"".join(field(1, value) for value in values))
    if isinstance(values[0], float):
        floats = [struct.pack("<f", value) for value in values]
        single = b"".join(varint(1 << 3 | 5) + value for value in floats)
        return field(2, field(1, b"".join(floats)) if packed else single)
    integers = [varint(int(value)) for value in values]
    single = b"".join(varint(1 << 3 | 0) + value for value in integers)
    return field(3, field(1, b"".join(integers)) if packed else single)


def example(features: Mapping[str, FeatureValues], *, packed: bool = True) -> bytes:
    entries = (
        field(1, field(1, key.encode()) + field(2, feature(values, packed=packed)))
        for key, values in features.items()
    )
    return field(1, b"".join(entries))


def write_records(path: Path, records: Iterable[bytes]) -> Path:
    path.write_bytes(b"".join(map(record, records)))
    return path


def write_dataset(
    folder: Path, splits: Mapping[str, Sequence[Sequence[bytes]]], name: str = "bridge_dataset"
) -> Path:
    """Write a TFDS folder: split -> shards -> records."""
    folder.mkdir(parents=True)
    described = []
    for split, shards in splits.items():
        for number, records in enumerate(shards):
            shard = f"{name}-{split}.tfrecord-{number:05d}-of-{len(shards):05d}"
            write_records(folder / shard, records)
        described.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "shardLengths": [str(len(records)) for records in shards],
            }
        )
    info = {"fileFormat": "tfrecord", "name": name, "splits": described, "version": "1.0.0"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder
