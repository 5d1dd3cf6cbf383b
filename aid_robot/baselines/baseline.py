"""What every baseline has from its config and its `predict_many`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Unpack

from aid_robot.clip import Foresight
from aid_robot.model.config import AIDConfig
from aid_robot.predictor import PredictOptions, Request


class Baseline(ABC):
    """A `Predictor` with the shape of some AID.

    Args:
        config: The AID's.
        model_id: What foresights say they are by.
    """

    def __init__(self, config: AIDConfig, model_id: str) -> None:
        self.config, self.model_id = config, model_id

    @property
    def fps(self) -> float:
        """Frames a second of the recorded world."""
        return self.config.fps

    @property
    def num_frames(self) -> int:
        """N, the frames of a foresight."""
        return self.config.num_frames

    @property
    def num_conditioning_frames(self) -> int:
        """K, the frames that an observation must give."""
        return self.config.num_conditioning_frames

    def predict(
        self,
        obs: Any,
        instruction: str | None = None,
        *,
        num_samples: int = 1,
        seed: int | None = None,
        **options: Unpack[PredictOptions],
    ) -> Foresight:
        """Predict the clip that follows an observation under an instruction."""
        return self.predict_many(
            [Request(obs, instruction, seed)], num_samples=num_samples, **options
        )[0]

    @abstractmethod
    def predict_many(
        self,
        requests: Sequence[Request | tuple[Any, str]],
        *,
        num_samples: int = 1,
        **options: Unpack[PredictOptions],
    ) -> list[Foresight]:
        """Answer several requests."""
