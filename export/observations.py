"""Real observations, which exported graphs are compared on and calibrated by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aid_robot.errors import ConfigError

_INSTRUCTION = "put the carrot on the plate"


@dataclass(frozen=True, eq=False)
class Observation:
    """What a prediction starts from."""

    frames: NDArray[np.uint8]  # (H, W, 3), or (K, H, W, 3)
    instruction: str


def bundled_observation() -> Observation:
    """Return the picture that comes with the package."""
    import aid_robot

    folder = Path(aid_robot.__file__).parent / "assets" / "observations"
    return Observation(_read_picture(sorted(folder.glob("*.png"))[0]), _INSTRUCTION)


def read_observation(path: str, instruction: str, count: int) -> Observation:
    """Read a picture, or the first `count` frames of a recording's first episode."""
    if Path(path).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
        return Observation(_read_picture(Path(path)), instruction)
    from aid_robot.data.ingest import open_recording

    episode = open_recording(path)[0]
    frames = episode.videos[episode.camera]
    return Observation(frames[0:count], instruction)


def _read_picture(path: Path) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
            return np.array(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigError(f"{path} is no picture that can be read ({error})") from error
