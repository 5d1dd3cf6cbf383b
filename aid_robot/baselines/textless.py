"""What the baselines that read no text and hold no weights share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from aid_robot.baselines.baseline import Baseline
from aid_robot.clip import Foresight
from aid_robot.model.config import AIDConfig
from aid_robot.options import check_count, check_options, check_request
from aid_robot.predictor import PredictOptions, Request


class TextlessBaseline(Baseline):
    """A `Predictor` with the shape of some AID; its samples are all the same.

    Args:
        config: Its N, K, fps and size are taken.
    """

    name: ClassVar[str]

    def __init__(self, config: AIDConfig) -> None:
        super().__init__(config, self.name)

    def predict_many(
        self,
        requests: Sequence[Request | tuple[Any, str]],
        *,
        num_samples: int = 1,
        **options: Unpack[PredictOptions],
    ) -> list[Foresight]:
        """Answer several requests."""
        check_count("num_samples", num_samples)
        check_options(options, self.config)
        clips = []
        for request in (r if isinstance(r, Request) else Request(*r) for r in requests):
            # It reads no text, so that a blank instruction is no error.
            free = PredictOptions({**options, "text_guidance_scale": 0.0})
            job = check_request(request, range(num_samples), free, self.config)
            count = self.num_frames - len(job.frames)
            future = self.continue_frames(job.frames, count, request.obs, options.get("camera"))
            clip = np.concatenate([job.frames, future])
            clips.append(
                Foresight(
                    frames=np.repeat(clip[None], num_samples, axis=0),
                    fps=self.fps,
                    instruction=job.instruction,
                    num_conditioning_frames=self.num_conditioning_frames,
                    seed=job.seed,
                    model_id=self.model_id,
                )
            )
        return clips

    @abstractmethod
    def continue_frames(
        self, given: NDArray[np.uint8], count: int, obs: Any, camera: str | None
    ) -> NDArray[np.uint8]:
        """Return the `count` frames after the given ones (K, H, W, 3); `obs` may show more."""
