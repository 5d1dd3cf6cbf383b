"""How much moves in a video, to leave out windows in which nothing does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from tqdm import tqdm, trange

from aid_robot.data.clips.config import ClipConfig
from aid_robot.data.clips.source import Source
from aid_robot.data.clips.windows import IntArray, Video
from aid_robot.data.episode import FloatArray, UInt8Array
from aid_robot.data.store import EpisodeStore
from aid_robot.errors import DataFormatError

# Under this hash a store caches what `frame_motion` gives.
MOTION_HASH = "frame_motion/1"
_CELLS = 16


def frame_motion(frames: Iterable[UInt8Array]) -> FloatArray:
    """Measure the change from each frame (H, W, 3) to the next one, in grey levels.

    It is the change of the mean grey of that cell of a 16x16 grid that changes most: a small
    object that moves counts as much as a large one, and the noise of pixels hardly at all.

    Returns:
        (T,) for T frames: [t] is the change from frame t - 1 to t, [0] is 0.
    """
    cells = [
        cv2.resize(frame.astype(np.float32), (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
        for frame in frames
    ]
    grey = np.stack(cells).mean(axis=-1)  # (T, cells, cells)
    motion = np.zeros(len(grey), np.float32)
    motion[1:] = np.abs(np.diff(grey, axis=0)).max(axis=(1, 2))
    return motion


def motion_key(camera: str) -> str:
    """Name the array (T,) in which a camera's motion is cached."""
    return f"motion_{camera}"


def cache_motion(store: EpisodeStore) -> None:
    """Measure the motion of all cameras of a store that is open for writing, once and for all."""
    for index in trange(len(store), desc="motion", unit="episode"):
        for camera in store.records[index].cameras:
            key = motion_key(camera)
            if store.read_cached(key, index, 0, 1, model_hash=MOTION_HASH) is None:
                motion = frame_motion(store[index].videos[camera])
                store.write_cached(key, index, motion, model_hash=MOTION_HASH)


def moving_windows(
    source: Source, videos: Sequence[Video], config: ClipConfig
) -> tuple[list[Video], list[IntArray]]:
    """Find where in each video windows of enough motion start, and leave out videos of none.

    Motion that a store has cached is taken; else every frame is decoded once.
    """
    kept, starts = [], []
    for video in tqdm(videos, desc="motion", unit="video"):
        record = source.record(video.episode)
        camera = video.camera or record.cameras[0]
        motion = source.cached(video.episode, motion_key(camera), 0, video.length, MOTION_HASH)
        if motion is None:
            frames = (source.frames(video.episode, camera, t, 1, 1)[0] for t in range(video.length))
            motion = frame_motion(frames)
        allowed = np.arange(video.length - (config.needed - 1) * config.stride)
        # [t] is the sum of the changes up to frame t.
        total = np.asarray(motion, np.float64).cumsum()
        last = np.minimum(allowed + (config.num_frames - 1) * config.stride, video.length - 1)
        mean = (total[last] - total[allowed]) / np.maximum(last - allowed, 1)
        moving = allowed[mean >= config.min_motion]
        if len(moving):
            kept.append(video)
            starts.append(moving)
    if not kept:
        raise DataFormatError(
            f"in none of {len(videos)} videos a window changes by min_motion={config.min_motion:g} "
            "grey levels a frame: lower it"
        )
    return kept, starts
