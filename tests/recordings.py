"""Small recordings that tests write themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aid_robot.data.video import write_video

TEXTS = ("put the carrot on the plate", "open the drawer", "")


def plain_frames(values: list[int], height: int = 48, width: int = 64) -> npt.NDArray[np.uint8]:
    """Draw one evenly grey frame a value, which a video codec keeps to a step or so."""
    return np.stack([np.full((height, width, 3), value, np.uint8) for value in values])


def write_irasim(
    folder: Path, *, episodes: int = 2, frames: int = 8, height: int = 48, width: int = 64
) -> Path:
    """Write episodes "train/0", ... whose frame t is grey 40 + 10 t + episode;
    every third is mute.

    Action t is t / 100 throughout, state t is t / 10.
    """
    for episode in range(episodes):
        video = Path("videos", "train", str(episode), "rgb.mp4")
        annotation = folder / "annotation" / "train" / f"{episode}.json"
        (folder / video).parent.mkdir(parents=True)
        annotation.parent.mkdir(parents=True, exist_ok=True)
        values = [40 + 10 * t + episode for t in range(frames)]
        write_video(folder / video, plain_frames(values, height, width), 5)
        content = {
            "texts": [TEXTS[episode % len(TEXTS)]],
            "videos": [{"video_path": str(video)}],
            "action": [[t / 100] * 7 for t in range(frames - 1)],
            "state": [[t / 10] * 7 for t in range(frames)],
        }
        annotation.write_text(json.dumps(content))
    return folder
