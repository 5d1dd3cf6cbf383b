"""The protocol that every predictor speaks: AID, its baselines, and whatever a user brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from aid_robot.clip import Foresight


@dataclass(frozen=True)
class Request:
    """One question to a predictor: what happens if, from here, this is done?

    Attributes:
        obs: An observation of any layout that `aid_robot.observation.to_frames` knows.
        instruction: What the robot is told; None takes the text that the observation carries.
        seed: Of the noise; None draws one, which the foresight then names.
        states: State descriptions, first to last; None asks the state predictor.
    """

    obs: Any
    instruction: str | None = None
    seed: int | None = None
    states: Sequence[str] | None = None


@runtime_checkable
class Predictor(Protocol):
    """What evaluation, planning and the control loop rely on."""

    @property
    def fps(self) -> float:
        """Frames a second of the recorded world."""

    @property
    def num_frames(self) -> int:
        """N, the frames of a foresight."""

    @property
    def num_conditioning_frames(self) -> int:
        """K, the frames that an observation must give."""

    def predict(
        self,
        obs: Any,
        instruction: str | None = None,
        *,
        num_samples: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Foresight:
        """Predict the clip that follows an observation under an instruction."""

    def predict_many(
        self, requests: Sequence[Request], *, num_samples: int = 1, **options: Any
    ) -> list[Foresight]:
        """Answer several requests in one batch; the same frames as one by one."""
