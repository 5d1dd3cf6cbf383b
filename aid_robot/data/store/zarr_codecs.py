"""Our frames for zarr: the codecs `imagecodecs_jpeg` and `imagecodecs_png`.

zarr finds them by their entry points, so `zarr.open_group("store.zarr")["data/image_0"][3]` is a
frame wherever this package is installed. The names and parameters are those of the package
imagecodecs; where both are installed, either reads what the other wrote.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON, parse_named_configuration

from aid_robot.data.store.codecs import JPEG, PNG, ChunkCodec, JpegCodec, PngCodec
from aid_robot.errors import StoreError


class _FrameCodec(ArrayBytesCodec):
    """Encode a chunk (1, H, W, 3) or (H, W, 3) of uint8 as an image."""

    is_fixed_size = False
    codec_name: ClassVar[str]

    @abstractmethod
    def chunk_codec(self) -> ChunkCodec:
        """Give what compresses."""

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        _, configuration = parse_named_configuration(
            data, cls.codec_name, require_configuration=False
        )
        try:
            return cls(**(configuration or {}))
        except TypeError as error:
            raise StoreError(
                f"the codec {cls.codec_name} has the parameters {configuration}, of which this "
                "package knows level and subsampling: install imagecodecs-zarr to read the array"
            ) from error

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        out = np.empty(_frame_shape(chunk_spec.shape), np.uint8)
        self.chunk_codec().decode_content(memoryview(chunk_bytes.to_bytes()), out)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(out.reshape(chunk_spec.shape))

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        frame = chunk_array.as_numpy_array().reshape(_frame_shape(chunk_spec.shape))
        data = self.chunk_codec().encode_content(frame)
        return chunk_spec.prototype.buffer.from_bytes(data)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)


@dataclass(frozen=True)
class Jpeg(_FrameCodec):
    """JPEG by libjpeg-turbo."""

    level: int = 95
    subsampling: str = "420"

    codec_name: ClassVar[str] = JPEG

    def to_dict(self) -> dict[str, JSON]:
        configuration: dict[str, JSON] = {"level": self.level, "subsampling": self.subsampling}
        return {"name": JPEG, "configuration": configuration}

    def chunk_codec(self) -> JpegCodec:
        return JpegCodec(self.level, self.subsampling)


@dataclass(frozen=True)
class Png(_FrameCodec):
    """PNG by OpenCV."""

    level: int = 1

    codec_name: ClassVar[str] = PNG

    def to_dict(self) -> dict[str, JSON]:
        return {"name": PNG, "configuration": {"level": self.level}}

    def chunk_codec(self) -> PngCodec:
        return PngCodec(self.level)


def _frame_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) < 3 or shape[-1] != 3 or any(n != 1 for n in shape[:-3]):
        raise StoreError(
            f"a chunk has shape {shape}; expected one RGB frame, (1, H, W, 3): give the array "
            "chunks of one frame"
        )
    return (1, *shape[-3:])
