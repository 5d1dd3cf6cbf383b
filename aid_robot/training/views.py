"""Episodes as training sees them: of the model's size, varied, with what was cached of them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from aid_robot.data.clips import Augmentation, Look
from aid_robot.data.episode import Episode, FloatArray, FrameSequence, UInt8Array
from aid_robot.data.store import EpisodeRecord
from aid_robot.data.store.frames import StoreFrames
from aid_robot.data.store.reader import StoreReader

# Where a recording's info says which episodes begin alike, as the simulator's does.
ALTERNATIVES = "alternatives_group"
# Where it says what an instruction names in the first frame, as the simulator's does:
# {camera: {role: [x, y]}}, from 0, 0 at the top left to 1, 1. Both roles may be missing.
PLACES = "places"


class Rows(Protocol):
    """Rows that are read when they are asked for, as `rows[start:stop]`."""

    def __len__(self) -> int: ...
    def __getitem__(self, span: slice) -> FloatArray: ...


@dataclass(frozen=True, eq=False)
class View:
    """An episode in one of its looks."""

    # Its videos are varied and of the model's size, where they are cached; else as stored.
    episode: Episode
    # Its number in the store, and which of the looks this is; 0 is the plain one.
    index: int
    version: int
    # The videos as they are stored.
    plain: Mapping[str, FrameSequence]
    # Of cameras: latents of frames with SVD's noise on them, and the image tower's tokens.
    given: Mapping[str, Rows] = field(default_factory=dict)
    images: Mapping[str, Rows] = field(default_factory=dict)
    # Of each of the episode's instructions: tokens of it and of its states, (1 + S, T, D).
    texts: Sequence[Rows] = ()

    def text_of(self, instruction: str) -> FloatArray | None:
        """Read the tokens of one of the episode's instructions; zeros stand for none."""
        if not instruction:
            return np.zeros_like(self.texts[0][:])
        return self.texts[self.episode.instructions.index(instruction)][:]


class LookedFrames(FrameSequence):
    """Frames that are varied alike, and brought to a size, when they are asked for."""

    def __init__(self, frames: FrameSequence, look: Look, size: tuple[int, int]) -> None:
        self._frames, self._look, self._size = frames, look, size

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def read(self, index: int) -> UInt8Array:
        frame: UInt8Array = self._look.frames(self._frames.read(index)[None], self._size)[0]
        return frame

    def _take(self, indices: list[int]) -> UInt8Array:
        return self._look.frames(self._frames[indices], self._size)


def plain_view(store: StoreReader, index: int, record: EpisodeRecord) -> View:
    """See an episode of a store as it is."""
    start = store.start(index)
    videos = {camera: StoreFrames(store, camera, start, record.length) for camera in record.cameras}
    return View(make_episode(record, record.id, videos), index, 0, videos)


def make_episode(
    record: EpisodeRecord,
    name: str,
    videos: Mapping[str, FrameSequence],
    arrays: Mapping[str, Any] | None = None,
) -> Episode:
    """Make an episode of a record, with other videos and arrays."""
    return Episode(
        id=name,
        videos=videos,
        instruction=record.instruction,
        instructions=record.instructions,
        outcome=record.outcome,
        fps=record.fps,
        source=record.source,
        scene=record.scene,
        arrays=arrays or {},
        info=record.info,
    )


def draw_look(
    augment: Augmentation, record: EpisodeRecord, camera: str, version: int, seed: int
) -> Look:
    """Draw how a video looks in a version, the same whatever else is in the store.

    Episodes that begin alike look alike, as far as their instructions allow.
    """
    if version == 0:
        return Look()
    name = zlib.crc32(f"{record.info.get(ALTERNATIVES, record.id)}/{camera}".encode())
    rng = np.random.default_rng([seed, version, name])
    # Whatever wording is drawn later, it must be true of the frames.
    return augment.draw(rng, " ".join(record.instructions))
