"""The simplest prediction: nothing moves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aid_robot.baselines.textless import TextlessBaseline


class CopyLastFrame(TextlessBaseline):
    """Repeat the last given frame."""

    name = "copy-last-frame"

    def continue_frames(
        self, given: NDArray[np.uint8], count: int, obs: Any, camera: str | None
    ) -> NDArray[np.uint8]:
        """Return the last given frame `count` times."""
        return given[-1:].repeat(count, axis=0)
