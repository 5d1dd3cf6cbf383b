"""Distances between two sets of clips: FVD, KVD and FID.

What is compared are features: of whole clips by I3D (FVD, KVD) or by another video network (under
its own name), or of single frames by an image network (FID).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aid_robot.evaluation.metrics.metric import (
    Better,
    FloatArray,
    Frames,
    check_clip,
    check_sets,
)

# Random halves by which `noise_floor` is judged.
_HALVES = 20


class Network(Protocol):
    """Turns a clip (N, H, W, 3) uint8 into features, (D,) of the clip or (N, D) of its frames."""

    @property
    def source(self) -> str:
        """What it is, as written beside the figures."""

    def __call__(self, clip: Frames) -> NDArray[np.float32]:
        """Return the features of one clip."""


class _SetMetric(ABC):
    """What the distances between sets share."""

    unit = ""
    better: Better = "lower"

    def __init__(
        self, network: Network, name: str, description: str, minimum: int, force: bool
    ) -> None:
        self.network = network
        self.name = name
        self.description = description
        self.minimum = minimum
        self.force = force

    @property
    def source(self) -> str:
        """Name the features; metrics of one source can share them."""
        return self.network.source

    def features(self, clip: Frames) -> NDArray[np.float32]:
        """Return the features of one clip (N, H, W, 3) uint8: (D,), or (N, D) for its frames."""
        return self.network(check_clip(clip))

    def distance(self, predicted: FloatArray, true: FloatArray) -> float:
        """Return the distance of two sets of features, (n, D) and (m, D).

        Raises MetricError where a set is smaller than `minimum`, unless it is forced; the message
        says how far two halves of the true set are apart.
        """
        advice = ""
        if min(len(predicted), len(true)) < self.minimum and not self.force:
            apart = self._halves_apart(true)
            advice = f": of so few it says more of their number than of the model{apart}. "
            advice += "Take more clips, or force it"
        predicted, true = check_sets(
            predicted,
            true,
            name=self.name,
            minimum=self.minimum,
            force=self.force,
            advice=advice,
        )
        return self._distance(predicted, true)

    def noise_floor(self, true: FloatArray) -> tuple[float, float]:
        """Return how far random halves of one set are apart: mean and standard deviation.

        A figure that is not well above it says nothing. Needs at least 4 clips; halves are the
        same in every call.
        """
        true, _ = check_sets(true, true, name=self.name, minimum=4, force=False)
        rng = np.random.default_rng(0)
        found = []
        for _ in range(_HALVES):
            order = rng.permutation(len(true))
            half = len(true) // 2
            found.append(self._distance(true[order[:half]], true[order[half : 2 * half]]))
        return float(np.mean(found)), float(np.std(found))

    def _halves_apart(self, true: FloatArray) -> str:
        if np.ndim(true) != 2 or len(true) < 4 or not np.isfinite(true).all():
            return ""
        mean, deviation = self.noise_floor(true)
        return (
            f" (random halves of the {len(true)} true ones alone are {mean:.4g} +- {deviation:.2g} "
            "apart)"
        )

    @abstractmethod
    def _distance(self, predicted: FloatArray, true: FloatArray) -> float: ...


class FVD(_SetMetric):
    """Fréchet video distance (Unterthiner et al. 2018)."""

    def __init__(
        self, network: Network, name: str = "fvd", *, minimum: int = 128, force: bool = False
    ) -> None:
        super().__init__(
            network, name, f"Fréchet distance of clips ({network.source})", minimum, force
        )

    def _distance(self, predicted: FloatArray, true: FloatArray) -> float:
        return frechet_distance(predicted, true)


class KVD(_SetMetric):
    """Kernel video distance: MMD^2 with the kernel (x.y / D + 1)^3, the unbiased estimate.

    It does not grow as the sets shrink, as FVD does, and is below zero as often as above where
    both sets are of one distribution.
    """

    def __init__(
        self, network: Network, name: str = "kvd", *, minimum: int = 32, force: bool = False
    ) -> None:
        description = f"unbiased MMD^2 of clips, cubic kernel ({network.source})"
        super().__init__(network, name, description, minimum, force)

    def _distance(self, predicted: FloatArray, true: FloatArray) -> float:
        return kernel_distance(predicted, true)


class FID(_SetMetric):
    """Fréchet distance of single frames, by a network of the user's."""

    def __init__(
        self, network: Network, name: str = "fid", *, minimum: int = 128, force: bool = False
    ) -> None:
        super().__init__(
            network, name, f"Fréchet distance of frames ({network.source})", minimum, force
        )

    def _distance(self, predicted: FloatArray, true: FloatArray) -> float:
        return frechet_distance(predicted, true)


def frechet_distance(first: FloatArray, second: FloatArray) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two sets of features (n, D).

    With centred sets A and B, S = A'A / (n - 1) and so on, the trace of the root is the nuclear
    norm of A B' / sqrt((n - 1)(m - 1)): no root of a singular matrix is ever taken, and a set is
    at 0 from itself however few clips it has.
    """
    means = [features.mean(0) for features in (first, second)]
    roots: list[Any] = []
    for features, mean in zip((first, second), means, strict=True):
        centred = (features - mean) / np.sqrt(len(features) - 1)
        # The same covariance from at most D rows.
        roots.append(np.linalg.qr(centred, "r") if len(centred) > centred.shape[1] else centred)
    a, b = roots
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = ((means[0] - means[1]) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * cross
    return float(max(distance, 0.0))


def kernel_distance(first: FloatArray, second: FloatArray) -> float:
    """Return the unbiased MMD^2 of two sets of features (n, D) with the kernel (x.y / D + 1)^3."""

    def kernel(x: FloatArray, y: FloatArray) -> FloatArray:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    def within(x: FloatArray) -> float:
        values = kernel(x, x)
        return float((values.sum() - np.trace(values)) / (len(x) * (len(x) - 1)))

    return within(first) + within(second) - 2 * float(kernel(first, second).mean())
