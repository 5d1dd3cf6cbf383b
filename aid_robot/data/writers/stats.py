"""Statistics of a data set's columns, as LeRobot keeps them to normalise by.

Each is a dict of min, max, mean, std, count and five quantiles; for numbers by value, for images by
colour (3, 1, 1) in [0, 1]. Those of the whole set are put together from the episodes', quantiles as
their mean, as LeRobot does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Stats: TypeAlias = dict[str, npt.NDArray[Any]]

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)
# Images with a side from 300 on are thinned out to about 150 pixels.
_LARGE, _THINNED = 300, 150


def row_stats(rows: npt.NDArray[Any]) -> Stats:
    """Describe numbers (T, ...), by their last axis."""
    numbers = rows.astype(np.float64).reshape(-1, rows.shape[-1] if rows.ndim > 1 else 1)
    # Of what isn't finite they are no numbers either, and needn't be warned of.
    with np.errstate(invalid="ignore"):
        stats: Stats = {
            "min": numbers.min(axis=0),
            "max": numbers.max(axis=0),
            "mean": numbers.mean(axis=0),
            "std": numbers.std(axis=0),
            "count": np.array([len(rows)]),
        }
        quantiles = np.quantile(numbers, list(QUANTILES.values()), axis=0)
    return stats | dict(zip(QUANTILES, quantiles, strict=True))


class PixelStats:
    """Describe some frames of a video by how often each level of each colour occurs."""

    def __init__(self, frames: int) -> None:
        # LeRobot's choice: all of up to 100, ever fewer of more.
        count = max(min(frames, 100), min(int(frames**0.75), 10_000))
        self._sampled = set(np.round(np.linspace(0, frames - 1, count)).astype(int).tolist())
        self._levels = np.zeros((3, 256), np.int64)

    def add(self, number: int, frame: npt.NDArray[np.uint8]) -> None:
        """Count a frame if it is one of the sample."""
        if number not in self._sampled:
            return
        height, width = frame.shape[:2]
        if max(height, width) >= _LARGE:
            step = (width if width > height else height) // _THINNED
            frame = frame[::step, ::step]
        for colour in range(3):
            self._levels[colour] += np.bincount(frame[..., colour].ravel(), minlength=256)

    def result(self) -> Stats:
        """Put the statistics together."""
        levels = np.arange(256) / 255
        total = self._levels[0].sum()
        mean = self._levels @ levels / total
        seen = [np.flatnonzero(counts) for counts in self._levels]
        below = self._levels.cumsum(axis=1)
        stats = {
            "min": levels[[places[0] for places in seen]],
            "max": levels[[places[-1] for places in seen]],
            "mean": mean,
            "std": np.sqrt(np.maximum(self._levels @ levels**2 / total - mean**2, 0)),
        }
        for name, part in QUANTILES.items():
            # The first level that this part of all pixels doesn't exceed.
            stats[name] = levels[(below < part * total).sum(axis=1)]
        shaped = {name: values.reshape(3, 1, 1) for name, values in stats.items()}
        return {**shaped, "count": np.array([len(self._sampled)])}


def merge(first: Stats | None, second: Stats) -> Stats:
    """Put the statistics of two parts together."""
    if first is None:
        return second
    counts = first["count"][0], second["count"][0]
    total = sum(counts)

    def weighted(name: str) -> npt.NDArray[Any]:
        average: npt.NDArray[Any] = (first[name] * counts[0] + second[name] * counts[1]) / total
        return average

    mean = weighted("mean")
    spread = [part["std"] ** 2 + (part["mean"] - mean) ** 2 for part in (first, second)]
    merged: Stats = {
        "min": np.minimum(first["min"], second["min"]),
        "max": np.maximum(first["max"], second["max"]),
        "mean": mean,
        "std": np.sqrt((spread[0] * counts[0] + spread[1] * counts[1]) / total),
        "count": np.array([total]),
    }
    return merged | {name: weighted(name) for name in QUANTILES}


def to_lists(stats: Mapping[str, npt.NDArray[Any]]) -> dict[str, list[Any]]:
    """Turn arrays into lists for JSON, in the order of NAMES."""
    return {name: stats[name].tolist() for name in NAMES}
