"""The two kinds of metrics, and the checks that all of them share.

A *frame* metric judges each predicted frame against the true one. A *set* metric compares the
distribution of many predicted clips with that of as many true ones, by features of each clip.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from aid_robot.errors import MetricError

Frames: TypeAlias = NDArray[np.uint8]
FloatArray: TypeAlias = NDArray[np.float64]
Better: TypeAlias = Literal["higher", "lower"]


@runtime_checkable
class FrameMetric(Protocol):
    """Judge predicted frames one by one."""

    @property
    def name(self) -> str:
        """How tables and commands call it."""

    @property
    def unit(self) -> str:
        """ "dB", "px", or "" where there is none."""

    @property
    def better(self) -> Better:
        """Which way is better."""

    @property
    def description(self) -> str:
        """What it measures, in a sentence."""

    def __call__(
        self, predicted: Frames, true: Frames, *, given: Frames | None = None
    ) -> FloatArray:
        """Return one value a frame, NaN where it can't judge.

        Args:
            predicted: The predicted frames alone, without the given ones, (F, H, W, 3) uint8.
            true: What really happened in them, of the same shape.
            given: The frames that the predictor was given, (K, H, W, 3) uint8.

        Returns:
            (F,) float64.
        """


@runtime_checkable
class SetMetric(Protocol):
    """Compare two sets of clips, of which only features are kept."""

    @property
    def name(self) -> str:
        """How tables and commands call it."""

    @property
    def unit(self) -> str:
        """ "" where there is none."""

    @property
    def better(self) -> Better:
        """Which way is better."""

    @property
    def description(self) -> str:
        """What it measures, in a sentence."""

    @property
    def minimum(self) -> int:
        """Rows of features in a set below which `distance` refuses."""

    @property
    def source(self) -> str:
        """Names the features; metrics of one source can share them."""

    def features(self, clip: Frames) -> NDArray[np.float32]:
        """Return the features of one clip (N, H, W, 3) uint8: (D,), or (M, D) for M items."""

    def distance(self, predicted: FloatArray, true: FloatArray) -> float:
        """Return the distance of two sets of features, (n, D) and (m, D).

        Raises MetricError where a set has fewer clips than `minimum`, unless it is forced.
        """


def check_clip(frames: Any, name: str = "the clip") -> Frames:
    """Refuse anything but (F, H, W, 3) uint8 with at least one frame."""
    if not isinstance(frames, np.ndarray):
        raise MetricError(
            f"{name} is a {type(frames).__name__}, expected an array (F, H, W, 3) uint8: "
            "hand over numpy arrays"
        )
    if frames.dtype != np.uint8:
        bad = ""
        if np.issubdtype(frames.dtype, np.floating) and not np.isfinite(frames).all():
            bad = f" and {int((~np.isfinite(frames)).sum())} values that are not finite"
        raise MetricError(
            f"{name} has dtype {frames.dtype}{bad}, expected uint8 frames in 0..255: find out "
            "what made it, rather than convert it here"
        )
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise MetricError(
            f"{name} has shape {frames.shape}, expected (F, H, W, 3), none of them 0: one clip of "
            "RGB frames"
        )
    return frames


def check_pair(predicted: Any, true: Any) -> tuple[Frames, Frames]:
    """Refuse two clips that can't be compared frame by frame."""
    predicted, true = check_clip(predicted, "the prediction"), check_clip(true, "the truth")
    if predicted.shape != true.shape:
        raise MetricError(
            f"the prediction has shape {predicted.shape}, the truth {true.shape}: compare the same "
            "frames at the same size (observation.resize_frames)"
        )
    return predicted, true


def check_given(given: Any, predicted: Frames, metric: str) -> Frames:
    """Refuse missing given frames, or such of another size than the predicted ones."""
    if given is None:
        raise MetricError(
            f"{metric} needs the given frames, got none: pass given=(K, H, W, 3) uint8"
        )
    frames: Frames = check_clip(given, "the given frames")
    if frames.shape[1:] != predicted.shape[1:]:
        raise MetricError(
            f"the given frames are {frames.shape[1]}x{frames.shape[2]}, the predicted ones "
            f"{predicted.shape[1]}x{predicted.shape[2]}: resize both to one size"
        )
    return frames


def check_sets(
    predicted: Any, true: Any, *, name: str, minimum: int, force: bool, advice: str = ""
) -> tuple[FloatArray, FloatArray]:
    """Refuse features of different widths, values that are not finite, and sets too small.

    Returns both as float64.
    """
    sets = []
    for features, which in ((predicted, "predicted"), (true, "true")):
        array = np.asarray(features, np.float64)
        if array.ndim != 2 or array.shape[1] == 0:
            raise MetricError(
                f"{name}: the {which} features have shape {array.shape}, expected (clips, "
                "features): stack what `features` returned, one row a clip"
            )
        if not np.isfinite(array).all():
            rows = np.flatnonzero(~np.isfinite(array).all(1))
            raise MetricError(
                f"{name}: {len(rows)} of {len(array)} {which} clips have features that are not "
                f"finite (the first is clip {rows[0]}): look at those clips"
            )
        sets.append(array)
    first, second = sets
    if first.shape[1] != second.shape[1]:
        raise MetricError(
            f"{name}: predicted features are {first.shape[1]} wide, true ones {second.shape[1]}: "
            "take both from one network"
        )
    fewest, least = min(len(first), len(second)), 2
    if fewest < least or (fewest < minimum and not force):
        raise MetricError(
            f"{name} of {len(first)} predicted and {len(second)} true clips is refused, it needs "
            f"{minimum if fewest >= least else least} of each{advice}"
        )
    return first, second
