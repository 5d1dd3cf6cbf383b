"""PIC: does the prediction still look like the picture it was given?"""

from __future__ import annotations

import numpy as np

from aid_robot.evaluation.metrics.lpips import LPIPS
from aid_robot.evaluation.metrics.metric import (
    Better,
    FloatArray,
    Frames,
    check_clip,
    check_given,
)


class PIC:
    """Perceptual input conformity, 1 - D(input, frame) (DynamiCrafter, Xing et al. 2024).

    D is LPIPS here, where the paper took DreamSim: compare such figures with each other only. The
    input is the last given frame. A still picture scores best, so read it beside a motion metric.
    """

    name, unit = "pic", ""
    better: Better = "higher"
    description = "1 - LPIPS to the last given frame; 1 is a still picture"

    def __init__(self, distance: LPIPS) -> None:
        self._lpips = distance

    def __call__(
        self, predicted: Frames, true: Frames, *, given: Frames | None = None
    ) -> FloatArray:
        """Return the conformity of each predicted frame, (F,)."""
        predicted = check_clip(predicted, "the prediction")
        given = check_given(given, predicted, self.name)
        distance = self._lpips.distance(predicted, given[-1:])
        return np.asarray(1.0 - distance.double().numpy())
