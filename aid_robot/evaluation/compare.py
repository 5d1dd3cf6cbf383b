"""A gate: is one evaluation worse than another, by more than is tolerated?

Both must be of the same clips under the same protocol, so that each clip is its own control.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aid_robot.errors import ConfigError, EvaluationError
from aid_robot.evaluation.intervals import (
    Interval,
    jackknife_interval,
    mean_interval,
    paired_interval,
)
from aid_robot.evaluation.protocols import Block, differing
from aid_robot.evaluation.results import RunFolder
from aid_robot.evaluation.summary import MetricFacts, Summary, set_distance, summarize
from aid_robot.evaluation.table import Table

Outcome = Literal["regression", "undecided", "no regression"]


@dataclass(frozen=True)
class Comparison:
    """A metric of two evaluations, and what became of it."""

    metric: MetricFacts
    # Of the first and of the second evaluation.
    blocks: tuple[Block, Block]
    values: tuple[Interval, Interval]
    # Second - first, paired by clip.
    difference: Interval
    # How much worse the second may be.
    bound: float

    @property
    def outcome(self) -> Outcome:
        """Judge the second evaluation.

        "regression": it is worse by more than the bound on average, and surely worse: the interval
        leaves out 0. "undecided": the interval holds differences worse than the bound, and more
        clips are needed to tell. Else "no regression".
        """
        sign = -1.0 if self.metric.better == "higher" else 1.0
        worse = sign * self.difference.value
        ends = sorted((sign * self.difference.low, sign * self.difference.high))
        if math.isnan(ends[0]):
            return "regression" if worse > self.bound else "undecided"
        if worse > self.bound and ends[0] > 0:
            return "regression"
        return "undecided" if ends[1] > self.bound else "no regression"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "better": self.metric.better,
            "first": vars(self.values[0]),
            "second": vars(self.values[1]),
            "difference": vars(self.difference),
            "bound": self.bound,
            "outcome": self.outcome,
            "blocks": [block.to_json() for block in self.blocks],
        }

    def __str__(self) -> str:
        unit = f" {self.metric.unit}" if self.metric.unit else ""
        first, second = self.blocks
        both = [("first", first), ("second", second)]
        lines = [str(first), *_others(first, second), ""]
        for (name, block), value in zip(both, self.values, strict=True):
            lines.append(
                f"{name:<11} {self.metric.name} {value.value:.4f}{unit} "
                f"[{value.low:.4f}, {value.high:.4f}]   {block.predictor.name}"
            )
        found = self.difference
        lines.append(
            f"{'difference':<11} {found.value:+.4f}{unit} [{found.low:+.4f}, {found.high:+.4f}], "
            f"{found.clips} clips in {found.clusters} scenes, {self.metric.better} is better"
        )
        lines.append(f"{'outcome':<11} {self.outcome} (at most {self.bound:g}{unit} worse)")
        return "\n".join(lines)


def compare(
    first: RunFolder,
    second: RunFolder,
    metric: str,
    bound: float,
    *,
    predictors: tuple[str | None, str | None] = (None, None),
    condition: str = "true",
) -> Comparison:
    """Compare a predictor of one evaluation with one of another, by default the first of each."""
    if not (math.isfinite(bound) and bound >= 0):
        raise ConfigError(f"bound={bound}; expected 0 or more, in the metric's unit")
    summaries = summarize(first), summarize(second)
    names = tuple(_name(s, n) for s, n in zip(summaries, predictors, strict=True))
    blocks = summaries[0].blocks[names[0]], summaries[1].blocks[names[1]]
    found = differing(*blocks)
    if found:
        raise EvaluationError(
            f"'{first.path}' and '{second.path}' differ in {'; '.join(found)}: figures compare "
            "only under one protocol and of the same clips"
        )
    facts = _metric(summaries[0], metric)
    _metric(summaries[1], metric)
    frames = blocks[0].protocol.num_frames - blocks[0].protocol.num_given
    tables = Table(first.verdicts(), frames), Table(second.verdicts(), frames)
    common = sorted(set(tables[0].clips) & set(tables[1].clips))
    if not common:
        raise EvaluationError(f"no clip could be read in both '{first.path}' and '{second.path}'")
    places = [np.array([table.clips.index(clip) for clip in common]) for table in tables]
    clusters = [tables[0].clusters[place] for place in places[0]]
    if facts.per == "set":
        true = [tables[0].features("true", facts.source)[i] for i in places[0]]
        sets = [
            [table.features(name, facts.source)[i] for i in where]
            for table, name, where in zip(tables, names, places, strict=True)
        ]
        distances = [set_distance(facts, predicted, true) for predicted in sets]
        values = tuple(jackknife_interval(d, clusters) for d in distances)
        difference = jackknife_interval(
            lambda chosen: distances[1](chosen) - distances[0](chosen), clusters
        )
    else:
        rows = [
            table.by_clip(name, metric, condition)[where]
            for table, name, where in zip(tables, names, places, strict=True)
        ]
        if any(np.isnan(row).all() for row in rows):
            raise ConfigError(
                f"no clip was predicted under the condition '{condition}' in both; expected one of "
                f"{', '.join(tables[0].conditions(names[0]))}"
            )
        values = tuple(mean_interval(row, clusters) for row in rows)
        difference = paired_interval(rows[0], rows[1], clusters)
    return Comparison(facts, blocks, (values[0], values[1]), difference, bound)


def _name(summary: Summary, name: str | None) -> str:
    names = list(summary.blocks)
    if name is None:
        return names[0]
    if name not in names:
        raise ConfigError(f"there is no predictor '{name}'; expected one of {', '.join(names)}")
    return name


def _metric(summary: Summary, name: str) -> MetricFacts:
    for metric in summary.metrics:
        if metric.name == name:
            return metric
    known = ", ".join(metric.name for metric in summary.metrics)
    raise ConfigError(f"'{name}' was not measured; expected one of {known}")


def _others(first: Block, second: Block) -> list[str]:
    """Say what differs between two blocks of one protocol."""
    pairs = zip(first.rows(), second.rows(), strict=True)
    return [f"{'against':<11} {name} {new}" for (name, old), (_, new) in pairs if old != new]
