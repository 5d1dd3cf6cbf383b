"""How a chunk of rows becomes bytes: JPEG or PNG for a frame, zstd for anything else."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import google_crc32c
import numpy as np
import numpy.typing as npt

from aid_robot.errors import StoreError

# Published names and parameters: the zarr codecs of the package `imagecodecs`, so that a program
# that has those reads our frames without this one.
JPEG = "imagecodecs_jpeg"
PNG = "imagecodecs_png"
# A corruption that slips through a decoder is found by this; four bytes a chunk.
CRC32C: dict[str, Any] = {"name": "crc32c"}

Array = npt.NDArray[Any]


class ChunkCodec(ABC):
    """Encode and decode chunks (rows, ...), each ending with its CRC-32C."""

    # Whether a chunk is one camera frame.
    frame: ClassVar[bool] = False

    @abstractmethod
    def to_json(self) -> list[dict[str, Any]]:
        """Describe the codec as the `codecs` of a zarr v3 array."""

    @abstractmethod
    def encode_content(self, rows: Array) -> bytes:
        """Compress rows (R, ...), without the checksum."""

    @abstractmethod
    def decode_content(self, data: memoryview, out: Array) -> None:
        """Decompress into `out` (R, ...); ValueError where that isn't what `data` holds."""

    def encode(self, rows: Array) -> bytes:
        """Compress a chunk (R, ...)."""
        return seal(self.encode_content(rows))

    def decode(self, data: bytes | memoryview, out: Array) -> None:
        """Decompress a chunk into a C-contiguous array; StoreError where it is damaged."""
        try:
            self.decode_content(unseal(data), out)
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(
                f"it holds no chunk of shape {out.shape} and type {out.dtype} ({error})"
            ) from error


def seal(data: bytes) -> bytes:
    """Append the CRC-32C, as zarr's `crc32c` codec does."""
    return data + struct.pack("<I", google_crc32c.value(data))


def unseal(data: bytes | memoryview) -> memoryview:
    """Check and cut off the CRC-32C."""
    view = memoryview(data)
    content = view[:-4]
    # google_crc32c takes bytes only.
    if len(view) < 4 or struct.unpack("<I", view[-4:])[0] != google_crc32c.value(bytes(content)):
        raise StoreError(f"its {len(view)} bytes fail their checksum")
    return content


@dataclass(frozen=True)
class JpegCodec(ChunkCodec):
    """One RGB frame as JPEG, by libjpeg-turbo."""

    quality: int = 95
    subsampling: str = "420"

    frame: ClassVar[bool] = True

    def to_json(self) -> list[dict[str, Any]]:
        configuration = {"level": self.quality, "subsampling": self.subsampling}
        return [{"name": JPEG, "configuration": configuration}, CRC32C]

    def encode_content(self, rows: Array) -> bytes:
        import simplejpeg

        frame = np.ascontiguousarray(rows[0])
        data: bytes = simplejpeg.encode_jpeg(frame, self.quality, "RGB", self.subsampling)
        return data

    def decode_content(self, data: memoryview, out: Array) -> None:
        import simplejpeg

        frame = simplejpeg.decode_jpeg(data, "RGB", buffer=out[0])
        if frame.shape != out.shape[1:]:
            raise ValueError(f"its JPEG is {frame.shape[1]}x{frame.shape[0]}")

    def take_over(self, data: bytes, size: tuple[int, int]) -> bytes | None:
        """Make a chunk of a JPEG from elsewhere, None where it must be compressed again.

        It must be a whole colour JPEG of that height and width, which is judged by its first and
        last bytes.
        """
        import simplejpeg

        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return None
        if (height, width) != size or colours not in ("YCbCr", "RGB"):
            return None
        return seal(data) if data.rstrip(b"\0").endswith(b"\xff\xd9") else None


@dataclass(frozen=True)
class PngCodec(ChunkCodec):
    """One RGB frame as PNG: lossless."""

    level: int = 1

    frame: ClassVar[bool] = True

    def to_json(self) -> list[dict[str, Any]]:
        return [{"name": PNG, "configuration": {"level": self.level}}, CRC32C]

    def encode_content(self, rows: Array) -> bytes:
        import cv2

        bgr = cv2.cvtColor(np.ascontiguousarray(rows[0]), cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, self.level])
        if not done:
            raise ValueError(f"a frame of shape {rows.shape[1:]} can't be written as PNG")
        return bytes(data.data)

    def decode_content(self, data: memoryview, out: Array) -> None:
        import cv2

        # Ahead of the decoder, which allocates what the header says.
        if bytes(data[:8]) != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
            raise ValueError("no PNG")
        width, height = struct.unpack(">II", data[16:24])
        if (height, width) != out.shape[1:3]:
            raise ValueError(f"its PNG is {width}x{height}")
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            raise ValueError("a damaged PNG")
        cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=out[0])


@dataclass(frozen=True)
class RowsCodec(ChunkCodec):
    """Rows of numbers as zstd."""

    level: int = 3

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": self.level, "checksum": False}},
            CRC32C,
        ]

    def encode_content(self, rows: Array) -> bytes:
        from numcodecs.zstd import Zstd

        little = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
        return bytes(Zstd(self.level).encode(little))

    def decode_content(self, data: memoryview, out: Array) -> None:
        from numcodecs.zstd import Zstd

        # Into memory of the right size: zstd's own header may claim any.
        flat = np.empty(out.nbytes, np.uint8)
        done = Zstd().decode(bytes(data), out=flat)
        if len(done) != out.nbytes:
            raise ValueError(f"{len(done)} bytes instead of {out.nbytes}")
        out[:] = flat.view(out.dtype.newbyteorder("<")).reshape(out.shape)


FrameCodec = JpegCodec | PngCodec


def codec_from_json(codecs: Any) -> ChunkCodec | None:
    """Find the codec for the `codecs` of a zarr v3 array, None where only zarr has it."""
    match codecs:
        case [{"name": "imagecodecs_jpeg", "configuration": dict(config)}, {"name": "crc32c"}]:
            if set(config) <= {"level", "subsampling"}:
                quality, subsampling = config.get("level", 95), config.get("subsampling", "420")
                if isinstance(quality, int) and subsampling in ("444", "422", "420", "440", "411"):
                    return JpegCodec(quality, subsampling)
        case [{"name": "imagecodecs_png", "configuration": dict(config)}, {"name": "crc32c"}]:
            if set(config) <= {"level"} and isinstance(config.get("level", 1), int):
                return PngCodec(config.get("level", 1))
        case [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": int(level)}},
            {"name": "crc32c"},
        ]:
            return RowsCodec(level)
    return None
