"""Visual foresight for robots: from a camera frame and an instruction to predicted video.

    from aid_robot import VideoForesight
    foresight = VideoForesight.from_pretrained().predict(frame, "put the carrot on the plate")
    foresight.save("foresight.mp4")

Importing this package loads neither torch nor diffusers; they load with the first name that
needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aid_robot.clip import Foresight
    from aid_robot.foresight import VideoForesight

__version__ = "0.1.0"
__all__ = ["Foresight", "VideoForesight", "__version__"]

_LAZY = {
    "Foresight": "aid_robot.clip",
    "VideoForesight": "aid_robot.foresight",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'aid_robot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
