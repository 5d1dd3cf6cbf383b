"""Intervals over scenes: clips of one scene are no independent draws.

Means get a percentile bootstrap over clusters. With few clusters it is too narrow, as any is: the
number of clusters stands beside every figure. Distances of sets (FVD, KVD) get a delete-a-group
jackknife instead, since a bootstrap's repeated clips would shrink a set and inflate its FVD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from aid_robot.errors import ConfigError

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]

DRAWS = 2000
_CHUNK = 200
# Groups of clusters that a jackknife leaves out in turn.
_GROUPS = 20


@dataclass(frozen=True)
class Interval:
    """A mean or distance, its 95 % interval, and how much it rests on."""

    value: float
    # NaN where fewer than two clusters are left.
    low: float
    high: float
    # Clips, and clusters, that have a value.
    clips: int
    clusters: int


def mean_interval(
    values: npt.ArrayLike, clusters: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Bound the mean of values (n,) over clusters; NaN is left out."""
    return mean_intervals(
        np.asarray(values, np.float64)[:, None], clusters, draws=draws, seed=seed
    )[0]


def mean_intervals(
    values: npt.ArrayLike, clusters: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> list[Interval]:
    """Bound the mean of each column of values (n, F), all with the same draws of clusters."""
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or len(table) != len(clusters):
        raise ConfigError(
            f"values have shape {table.shape} for {len(clusters)} clusters; expected a row each"
        )
    numbers = number_clusters(clusters)
    count = int(numbers.max(initial=-1)) + 1
    known = ~np.isnan(table)
    sums, counts = np.zeros((count, table.shape[1])), np.zeros((count, table.shape[1]))
    np.add.at(sums, numbers, np.where(known, table, 0.0))
    np.add.at(counts, numbers, known)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums.sum(0) / counts.sum(0)
        drawn = np.concatenate(
            [weights @ sums / (weights @ counts) for weights in _draw(count, draws, seed)]
        )
    found = []
    for column in range(table.shape[1]):
        living = int((counts[:, column] > 0).sum())
        low = high = math.nan
        if living > 1:
            low, high = np.nanpercentile(drawn[:, column], [2.5, 97.5])
        clips = int(counts[:, column].sum())
        found.append(Interval(float(means[column]), float(low), float(high), clips, living))
    return found


def paired_interval(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    clusters: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Bound the mean of second - first of the same clips; a clip that lacks one is left out."""
    difference = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    return mean_interval(difference, clusters, draws=draws, seed=seed)


def jackknife_interval(
    distance: Callable[[IntArray], float], clusters: Sequence[str], *, seed: int = 0
) -> Interval:
    """Bound a distance of sets by leaving out groups of clusters in turn.

    Args:
        distance: Called with the places (m,) of the clips that stay.
        clusters: A name for each clip.
        seed: Of how clusters are put into groups.
    """
    numbers = number_clusters(clusters)
    count = int(numbers.max(initial=-1)) + 1
    whole = distance(np.arange(len(clusters)))
    low = high = math.nan
    groups = min(_GROUPS, count)
    if groups > 1:
        group_of = np.random.default_rng(seed).permutation(count) % groups
        parts = np.array(
            [distance(np.flatnonzero(group_of[numbers] != group)) for group in range(groups)]
        )
        error = math.sqrt((groups - 1) / groups * float(((parts - parts.mean()) ** 2).sum()))
        low, high = whole - 1.96 * error, whole + 1.96 * error
    return Interval(whole, low, high, len(clusters), count)


def number_clusters(clusters: Sequence[str]) -> IntArray:
    """Number names (n,) in the order of their first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in clusters], np.int64)


def _draw(count: int, draws: int, seed: int) -> Iterator[FloatArray]:
    """Draw clusters with replacement, as how often each was drawn, (some draws, count)."""
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _CHUNK):
        some = min(_CHUNK, draws - start)
        yield rng.multinomial(count, np.full(count, 1 / max(count, 1)), some).astype(np.float64)
