"""What the robot is to bring about: said, shown, or both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aid_robot.errors import PlanError


@dataclass(frozen=True, eq=False)
class Goal:
    """A goal as text, as an image, or as both; an empty one is for scorers that need none."""

    # "the carrot is on the plate", or an instruction.
    text: str | None = None
    # (H, W, 3) RGB: how the scene shall look.
    image: NDArray[np.uint8] | None = None
    # (H, W), True where the image counts; None counts all of it.
    mask: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Check what every scorer relies on."""
        if self.text is not None and (not isinstance(self.text, str) or not self.text.strip()):
            raise PlanError(
                f"the goal's text is {self.text!r}; expected text such as 'the carrot is on the "
                "plate', or None"
            )
        image, mask = self.image, self.mask
        if image is not None and (
            image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape
        ):
            raise PlanError(
                f"the goal's image has dtype {image.dtype} and shape {image.shape}; expected uint8 "
                "and (H, W, 3), RGB"
            )
        if mask is None:
            return
        if image is None:
            raise PlanError("the goal has a mask but no image; give the image that it belongs to")
        if mask.dtype != np.bool_ or mask.shape != image.shape[:2] or not mask.any():
            raise PlanError(
                f"the goal's mask has dtype {mask.dtype} and shape {mask.shape}; expected bool and "
                f"{image.shape[:2]}, as its image, True somewhere"
            )

    def __str__(self) -> str:
        """Say the goal in a line."""
        parts = [self.text] if self.text else []
        if self.image is not None:
            parts.append("the goal image" + (" within its mask" if self.mask is not None else ""))
        return " and ".join(parts) or "no goal"
