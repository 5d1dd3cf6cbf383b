"""Ends as a model imagines them, so that the classifier learns what its pictures are worth.

What is true of an episode is asked of the end that a model imagines for its instruction, too. So
the classifier reads what such pictures tell, a haze where a thing goes for instance, and is no
surer of them than they deserve.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from aid_robot.data.episode import Episode
from aid_robot.errors import CheckpointError
from aid_robot.observation import resize_frames
from aid_robot.planning.imagine import Imagination
from aid_robot.planning.success.examples import ENDS
from aid_robot.predictor import Predictor

# Episodes that are imagined, and kept, together.
_CHUNK = 8


def imagine_ends(
    predictor: Predictor,
    episodes: Sequence[Episode],
    size: int,
    folder: Path,
    *,
    source: str,
    clips_per_step: int = 1,
    bar: str = "imagine",
) -> dict[str, NDArray[np.uint8]]:
    """Imagine how episodes end, or read what was imagined before.

    Args:
        predictor: Who imagines. It should not have been trained on these episodes: what it knows by
            heart looks better than what a planner will see.
        episodes: Those without an instruction are left out.
        size: Height and width of the pictures.
        folder: Where they are kept, to go on after a stop.
        source: Tells the predictor from others, such as a hash of its weights.
        clips_per_step: Clips of each instruction, one after the other; as in planning.
        bar: What the progress bar says.

    Returns:
        Episode's id -> the last frames that were imagined, (ENDS, size, size, 3).

    Raises:
        CheckpointError: What the folder holds is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked = [episode for episode in episodes if episode.instruction]
    found: dict[str, NDArray[np.uint8]] = {}
    with tqdm(total=len(asked), desc=bar, unit="episode") as progress:
        for start in range(0, len(asked), _CHUNK):
            chunk = asked[start : start + _CHUNK]
            told = [(e.id, e.instruction, zlib.crc32(e.frames[0].tobytes())) for e in chunk]
            about = (source, size, clips_per_step, told)
            path = folder / f"{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}.npy"
            if path.exists():
                ends = _read(path, (len(chunk), ENDS, size, size, 3))
            else:
                ends = _imagine(predictor, chunk, size, clips_per_step)
                partial = path.with_suffix(".part")
                with partial.open("wb") as file:
                    np.save(file, ends)
                partial.replace(path)
            found.update(zip((e.id for e in chunk), ends, strict=True))
            progress.update(len(chunk))
    return found


def _imagine(
    predictor: Predictor, episodes: Sequence[Episode], size: int, clips_per_step: int
) -> NDArray[np.uint8]:
    given = predictor.num_conditioning_frames
    # The first frame has stood still; one start has one noise, as it has in planning.
    starts = [
        (np.stack([e.frames[0]] * given), zlib.crc32((e.scene or e.id).encode())) for e in episodes
    ]
    imagination = Imagination(predictor, starts, 1, clips_per_step)
    plans = [(number, (episode.instruction or "",)) for number, episode in enumerate(episodes)]
    imagination.add(plans)
    clips = [imagination.foresight(number, steps).frames[0, -ENDS:] for number, steps in plans]
    return np.stack([resize_frames(clip, (size, size)) for clip in clips])


def _read(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        ends = np.load(path, allow_pickle=False)
        if ends.shape != shape or ends.dtype != np.uint8:
            raise ValueError(f"{ends.dtype} {ends.shape} in place of uint8 {shape}")
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): delete it, and it is imagined anew"
        ) from error
    return np.asarray(ends)
