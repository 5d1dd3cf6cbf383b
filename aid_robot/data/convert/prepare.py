"""What a worker does with one episode: read it, bring it to the store's size, encode its frames."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import simplejpeg

from aid_robot.data.convert.sources import Source
from aid_robot.data.episode import Episode, FrameSequence, UInt8Array
from aid_robot.data.frames import decode_image
from aid_robot.data.ingest import Recording, open_recording
from aid_robot.data.ingest.traps import trim_static
from aid_robot.data.store.codecs import JpegCodec, PngCodec, unseal
from aid_robot.errors import DataFormatError, TruncatedFileError
from aid_robot.observation import resize_frames

# Encoded frames of one camera beyond this many bytes wait in a file, not in memory.
SPOOL_BYTES = 32 * 2**20
# Recordings that a worker holds open.
_OPEN_RECORDINGS = 16


@dataclass(frozen=True)
class Settings:
    """How episodes are prepared, the same for all of a run."""

    # (height, width) that frames are squashed to; None keeps them as they are.
    size: tuple[int, int] | None = None
    codec: Literal["jpeg", "png"] = "jpeg"
    # Of JPEG, 1 to 100.
    quality: int = 95
    # (camera in the store, camera of the recording), the default one first; empty takes all.
    cameras: tuple[tuple[str, str], ...] = ()
    # Frames a second, for recordings that don't say it, or say it wrongly.
    fps: float | None = None
    trim_static: bool = False
    # Folder for the frames of long episodes; None keeps them in memory.
    spool: Path | None = None


@dataclass(frozen=True, eq=False)
class PreparedEpisode:
    """An episode as the store will hold it."""

    # Its videos are PreparedFrames.
    episode: Episode
    # Bytes of the encoded frames.
    size: int

    def discard(self) -> None:
        """Remove what waited in files."""
        for frames in self.episode.videos.values():
            if isinstance(frames, PreparedFrames) and isinstance(frames.blob, Path):
                frames.blob.unlink(missing_ok=True)


@dataclass(frozen=True)
class Failure:
    """Why an episode could not be prepared."""

    # Class of the error.
    kind: str
    message: str
    # No other episode will fare better.
    disk_full: bool = False


class PreparedFrames(FrameSequence):
    """Images of one size, encoded, one after the other in memory or in a file."""

    def __init__(
        self, blob: bytes | Path, ends: npt.NDArray[np.int64], size: tuple[int, int], name: str
    ) -> None:
        self.blob = blob
        self._ends, self._size, self._name = ends, size, name

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def encoded(self, index: int) -> bytes:
        start, end = int(self._ends[index - 1]) if index else 0, int(self._ends[index])
        if isinstance(self.blob, bytes):
            return self.blob[start:end]
        with self.blob.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def read(self, index: int) -> UInt8Array:
        return decode_image(self.encoded(index), f"frame {index} of {self._name}")


class _Blob:
    """Bytes that wait in memory while they are few, in a file once they are many."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: Path | None = None
        self._memory = bytearray()

    def write(self, data: bytes) -> None:
        self._memory += data
        if self._folder is not None and len(self._memory) > SPOOL_BYTES:
            self._file = self._file or self._folder / secrets.token_hex(8)
            self._flush(self._file)

    def finish(self) -> bytes | Path:
        if self._file is None:
            return bytes(self._memory)
        self._flush(self._file)
        return self._file

    def _flush(self, path: Path) -> None:
        with path.open("ab") as file:
            file.write(self._memory)
        self._memory.clear()


def attempt(source: Source, index: int, settings: Settings) -> PreparedEpisode | Failure:
    """Prepare an episode; whatever is wrong with it becomes a Failure, for the quarantine."""
    try:
        return read_source_episode(source, index, settings)
    # Decoders of damaged files raise anything.
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return Failure(type(error).__name__, " ".join(str(error).split()), disk_full=full)


def read_source_episode(source: Source, index: int, settings: Settings) -> PreparedEpisode:
    """Read the episode at `index` of a recording, and encode its frames as the store holds them.

    JPEG frames of the store's size stay byte for byte as they were recorded.
    """
    episode = select(open_source(source, settings.fps)[index], settings)
    videos: dict[str, PreparedFrames] = {}
    size = 0
    for camera, frames in episode.videos.items():
        name = f"camera {camera} of {episode.source}"
        videos[camera], written = _prepare(frames, settings, name)
        size += written
    origin = {"path": str(source.path), "format": source.format}
    prepared = replace(
        episode,
        id=source.id_of(episode.id),
        videos=videos,
        info={**episode.info, "ingested_from": origin},
    )
    return PreparedEpisode(prepared, size)


@lru_cache(maxsize=_OPEN_RECORDINGS)
def open_source(source: Source, fps: float | None) -> Recording:
    """Open a recording once a process."""
    return open_recording(source.path, source.format, fps=fps)


def select(episode: Episode, settings: Settings) -> Episode:
    """Take the cameras and frames that were asked for, not decoded yet."""
    if settings.cameras:
        cameras = settings.cameras
        chosen = {new: episode.videos[old] for new, old in cameras if old in episode.videos}
        if not chosen:
            raise DataFormatError(
                f"episode '{episode.id}' ({episode.source}) has none of the cameras "
                f"{', '.join(old for _, old in cameras)}; expected one of "
                f"{', '.join(episode.videos)}: add it to the chosen cameras"
            )
        episode = replace(episode, videos=chosen)
    return trim_static(episode) if settings.trim_static else episode


def _prepare(frames: FrameSequence, settings: Settings, name: str) -> tuple[PreparedFrames, int]:
    """Encode a camera's frames; return them and the count of their bytes."""
    if not len(frames):
        raise DataFormatError(f"{name} has no frames; expected at least one: remove the episode")
    size = settings.size or frames.size
    blob = _Blob(settings.spool)
    lengths = []
    for image in _images(frames, settings, size, name):
        blob.write(image)
        lengths.append(len(image))
    ends = np.cumsum(lengths, dtype=np.int64)
    return PreparedFrames(blob.finish(), ends, size, name), int(ends[-1])


def _images(
    frames: FrameSequence, settings: Settings, size: tuple[int, int], name: str
) -> Iterator[bytes]:
    codec = JpegCodec(settings.quality) if settings.codec == "jpeg" else PngCodec()
    as_recorded = settings.codec == "jpeg" and frames.size == size
    for jpeg, frame in _decoded(frames, name):
        if jpeg is not None and as_recorded:
            yield jpeg
        else:
            yield bytes(unseal(codec.encode(resize_frames(frame[None], size))))


def _decoded(frames: FrameSequence, name: str) -> Iterator[tuple[bytes | None, UInt8Array]]:
    """Decode frame by frame, with the JPEG that a frame is recorded as and may be stored as."""
    if frames.encoded(0) is None:
        for frame in frames:
            yield None, frame
        return
    for index in range(len(frames)):
        jpeg = frames.encoded(index)
        where = f"frame {index} of {name}"
        decoded = None if jpeg is None else _decode_whole(jpeg, frames.size, where)
        if decoded is None:
            yield None, frames.read(index)
        else:
            yield jpeg, decoded


def _decode_whole(jpeg: bytes, size: tuple[int, int], name: str) -> UInt8Array | None:
    """Decode a colour JPEG of a size, None where it is another, or has marks of a rough camera."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(jpeg)
        if (height, width) != size or colours not in ("YCbCr", "RGB"):
            return None
        frame: UInt8Array = simplejpeg.decode_jpeg(jpeg)
    except ValueError as error:
        # Some webcams write stray bytes between the parts of an image, which is whole all the same.
        if "extraneous bytes" in str(error):
            return None
        # Pillow would fill what is missing with grey.
        raise TruncatedFileError(
            f"{name} is no whole JPEG ({len(jpeg)} bytes: {error}): copy the recording again from "
            "its source"
        ) from error
    return frame
