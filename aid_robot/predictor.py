"""The protocol that every predictor speaks: AID, its baselines, and whatever a user brings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, Unpack, runtime_checkable

from aid_robot.clip import Foresight

Progress = Callable[[int, int], None]


class PredictOptions(TypedDict, total=False):
    """What a caller may set for one call; everything else is the model's own config."""

    # Denoising steps, and the config's other sampling fields.
    steps: int
    sampler: str
    schedule: str
    # s_v, or a pair that grows from the first frame to the last; and s_t.
    image_guidance_scale: float | tuple[float, float]
    text_guidance_scale: float
    # Noise levels (low, high) at which guidance acts.
    guidance_interval: tuple[float, float]
    # Change of the latents below which the given frame's pixels are kept; 0 decodes all.
    still_threshold: float
    # Camera of observations that have several.
    camera: str
    # Rate at which the observation was recorded, to be checked against the model's.
    fps: float
    # Frames that the caller expects, to be checked against the model's.
    num_frames: int
    # Rows that are denoised at once; the default is all on a GPU and 4 on a CPU.
    batch_size: int
    # Frames that are decoded at once, and the side of decoding tiles in latent pixels.
    decode_chunk_size: int
    decode_tile_size: int
    # True for a bar, or a function (steps done, steps in all).
    progress: bool | Progress


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
        **options: Unpack[PredictOptions],
    ) -> Foresight:
        """Predict the clip that follows an observation under an instruction."""

    def predict_many(
        self,
        requests: Sequence[Request | tuple[Any, str]],
        *,
        num_samples: int = 1,
        **options: Unpack[PredictOptions],
    ) -> list[Foresight]:
        """Answer several requests in one batch; the same frames as one by one."""
