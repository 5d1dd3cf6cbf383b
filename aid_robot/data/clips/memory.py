"""Small sets of episodes, decoded into memory once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from aid_robot.data.episode import Episode
from aid_robot.data.frames import ArrayFrames
from aid_robot.observation import resize_frames


def load_episodes(
    episodes: Iterable[Episode], size: tuple[int, int], *, all_cameras: bool = True
) -> list[Episode]:
    """Decode episodes into memory, squashed to (height, width) as Bridge does it.

    It pays where a set is small and its frames large, or slow to decode: a video file must be
    decoded from its last keyframe for every clip.
    """
    loaded = []
    for episode in tqdm(episodes, desc="load", unit="episode"):
        videos = {
            camera: ArrayFrames(np.stack([resize_frames(frame, size) for frame in frames]))
            for camera, frames in episode.videos.items()
            if all_cameras or camera == episode.camera
        }
        loaded.append(replace(episode, videos=videos))
    return loaded
