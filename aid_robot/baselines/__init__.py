"""What a prediction has to beat, behind the same protocol.

make_predictor("copy-last-frame")
make_predictor("aid:bundled?off=states")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aid_robot.baselines.copy_last_frame import CopyLastFrame
    from aid_robot.baselines.flow import FlowExtrapolation
    from aid_robot.baselines.image_prior import ImagePrior
    from aid_robot.baselines.registry import make_predictor
    from aid_robot.baselines.variants import switched_off

__all__ = ["CopyLastFrame", "FlowExtrapolation", "ImagePrior", "make_predictor", "switched_off"]

# Loaded on use: copying a frame needs no network.
_MODULES = {
    "CopyLastFrame": "copy_last_frame",
    "FlowExtrapolation": "flow",
    "ImagePrior": "image_prior",
    "make_predictor": "registry",
    "switched_off": "variants",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
