"""Which clips a report shows: by rule, so that none is picked by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aid_robot.evaluation import faithfulness as ask
from aid_robot.evaluation.summary import MetricFacts, Summary
from aid_robot.evaluation.table import Table

# Clips of a kind.
_EACH = 2
_COUNTERFACTUALS = 4


@dataclass(frozen=True)
class Pick:
    """A clip, and why it is shown."""

    clip: str
    why: str


def by_quality(table: Table, summary: Summary) -> list[Pick]:
    """Pick the best, the middle and the worst moving clips of the first predictor."""
    metric, name = first_metric(summary), table.predictors[0]
    values = table.by_clip(name, metric.name)
    order = _ranked(values, metric, _moving(table, summary))
    middle = max(0, len(order) // 2 - _EACH // 2)
    groups = {
        "best": order[:_EACH],
        "median": order[middle : middle + _EACH],
        "worst": order[::-1][:_EACH],
    }
    picks: dict[int, Pick] = {}
    for why, places in groups.items():
        for place in places:
            text = f"{why}: {metric.name} {values[place]:.3f} {metric.unit}".strip()
            picks.setdefault(int(place), Pick(table.clips[place], text))
    return list(picks.values())


def by_effect(table: Table, summary: Summary) -> list[Pick]:
    """Pick clips from where the true instruction helps most to where it harms most."""
    metric, name = first_metric(summary), table.predictors[0]
    if ask.SHUFFLED not in table.conditions(name):
        return []
    sign = 1.0 if metric.better == "higher" else -1.0
    gain = sign * (
        table.by_clip(name, metric.name) - table.by_clip(name, metric.name, ask.SHUFFLED)
    )
    order = _ranked(gain, MetricFacts("", "", "higher", ""), _moving(table, summary))
    count = min(_COUNTERFACTUALS, len(order))
    places = [order[i] for i in np.linspace(0, len(order) - 1, count).round().astype(int)]
    return [
        Pick(
            table.clips[place],
            f"true instruction {gain[place]:+.3f} {metric.unit}".strip() + " over the shuffled one",
        )
        for place in dict.fromkeys(int(p) for p in places)
    ]


def first_metric(summary: Summary) -> MetricFacts:
    """Name the metric that clips are ranked by: the first of frames, of which more is known."""
    frame = [metric for metric in summary.metrics if metric.per == "frame" and metric.better]
    return frame[0] if frame else summary.metrics[0]


def _moving(table: Table, summary: Summary) -> npt.NDArray[np.bool_]:
    """Choose moving clips, or all where hardly any moves."""
    protocol = next(iter(summary.blocks.values())).protocol
    moving = table.motion >= protocol.moving_from
    return moving if moving.sum() > _EACH else np.ones(len(table), bool)


def _ranked(
    values: npt.NDArray[np.float64], metric: MetricFacts, chosen: npt.NDArray[np.bool_]
) -> list[int]:
    """Order the places of chosen clips, the best first; clips without a value are left out."""
    sign = -1.0 if metric.better == "higher" else 1.0
    places = [i for i in np.flatnonzero(chosen) if np.isfinite(values[i])]
    return sorted((int(i) for i in places), key=lambda i: (sign * values[i], i))
