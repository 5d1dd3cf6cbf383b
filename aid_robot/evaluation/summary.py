"""From verdicts to figures, each with its interval and its block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aid_robot.errors import EvaluationError
from aid_robot.evaluation import faithfulness as ask
from aid_robot.evaluation.intervals import (
    Interval,
    jackknife_interval,
    mean_interval,
    mean_intervals,
    paired_interval,
)
from aid_robot.evaluation.metrics.frechet import frechet_distance, kernel_distance
from aid_robot.evaluation.metrics.metric import FrameMetric, SetMetric
from aid_robot.evaluation.protocols import (
    Block,
    ClipSet,
    EvaluationProtocol,
    Figure,
    PredictorFacts,
)
from aid_robot.evaluation.results import RunFolder
from aid_robot.evaluation.table import Table

# Clips that a subset needs to be shown.
_FEWEST = 2


@dataclass(frozen=True)
class MetricFacts:
    """What a metric is, without its network."""

    name: str
    unit: str
    better: str
    description: str
    # What has a value of it.
    per: Literal["frame", "clip", "set"] = "frame"
    # Of a distance of sets: whose features it compares, and how many clips it needs.
    source: str = ""
    minimum: int = 0

    @classmethod
    def of(cls, metric: FrameMetric | SetMetric) -> MetricFacts:
        """Take it from a metric."""
        said = (metric.name, metric.unit, metric.better, metric.description)
        if isinstance(metric, SetMetric):
            return cls(*said, per="set", source=metric.source, minimum=metric.minimum)
        return cls(*said)

    def distance(
        self, predicted: Sequence[npt.NDArray[Any]], true: Sequence[npt.NDArray[Any]]
    ) -> float:
        """Compare sets of features, (M, D) of each clip."""
        measure = kernel_distance if self.name.startswith("kvd") else frechet_distance
        return measure(np.concatenate(predicted), np.concatenate(true))


@dataclass(frozen=True)
class Summary:
    """All figures of an evaluation."""

    figures: tuple[Figure, ...]
    blocks: Mapping[str, Block]
    metrics: tuple[MetricFacts, ...]
    # Clip, or episode -> why it could not be read.
    errors: Mapping[str, str] = field(default_factory=dict)
    # What was left out and why, one sentence each.
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values: blocks by predictor, and figures that name theirs."""
        return {
            "blocks": {
                name: {**b.to_json(), "digest": b.digest} for name, b in self.blocks.items()
            },
            "metrics": [vars(metric) for metric in self.metrics],
            "figures": [figure.to_json() for figure in self.figures],
            "errors": dict(self.errors),
            "notes": list(self.notes),
        }

    def find(self, predictor: str, metric: str, **where: Any) -> Figure | None:
        """Find a figure; conditions, subset and so on are a Figure's defaults unless given."""
        wanted = {"condition": ask.TRUE, "subset": "all", "minus": "", "frame": None, **where}
        for figure in self.figures:
            is_named = figure.block.predictor.name == predictor and figure.metric == metric
            if is_named and all(getattr(figure, k) == value for k, value in wanted.items()):
                return figure
        return None


def summarize(folder: RunFolder) -> Summary:
    """Compute all figures of an evaluation from its verdicts."""
    plan = folder.plan()
    protocol = EvaluationProtocol(**_tuples(plan["protocol"]))
    table = Table(folder.verdicts(), protocol.num_frames - protocol.num_given)
    if not len(table):
        first = next(iter(table.errors.items()), ("", "no clip was judged"))
        raise EvaluationError(
            f"none of {len(table.errors)} clips of '{folder.path}' could be read; the first, "
            f"'{first[0]}': {first[1]}"
        )
    known = {m for names in table.measured().values() for m in names}
    every = (MetricFacts(**values) for values in plan["metrics"])
    metrics = tuple(metric for metric in every if metric.per == "set" or metric.name in known)
    clips = ClipSet(**_tuples(plan["clips"]))
    blocks = {}
    for name in plan["predictors"]:
        facts = table.facts[name]
        blocks[name] = Block(
            protocol=protocol,
            clips=clips,
            predictor=PredictorFacts(
                name=name,
                model_hash=plan["predictors"][name]["hash"],
                size=(facts["size"][0], facts["size"][1]),
                settings=facts["settings"],
            ),
            versions=plan["versions"],
        )
    judged, notes = len(table) + len(table.errors), []
    if judged < clips.clips:
        notes.append(f"Not all is done: {judged} of {clips.clips} clips have been judged so far.")
    maker = _Maker(table, blocks, metrics, protocol)
    return Summary(
        figures=tuple(maker.figures()),
        blocks=blocks,
        metrics=metrics,
        errors={**plan["unreadable"], **table.errors},
        notes=tuple(notes + maker.notes),
    )


class _Maker:
    """Makes figures of one table."""

    def __init__(
        self,
        table: Table,
        blocks: Mapping[str, Block],
        metrics: Sequence[MetricFacts],
        protocol: EvaluationProtocol,
    ) -> None:
        self._table, self._blocks, self._protocol = table, blocks, protocol
        self._by_clip = [metric for metric in metrics if metric.per != "set"]
        self._by_frame = [metric for metric in metrics if metric.per == "frame"]
        self._by_set = [metric for metric in metrics if metric.per == "set"]
        self._names = list(blocks)
        moving = table.motion >= protocol.moving_from
        self._subsets = {"all": np.ones(len(table), bool)}
        self.notes: list[str] = []
        if moving.sum() >= _FEWEST and not moving.all():
            self._subsets["moving"] = moving
        elif moving.all():
            self.notes.append("All clips are moving ones.")
        else:
            self.notes.append(f"{int(moving.sum())} clips are moving ones, too few to be shown.")

    def figures(self) -> Iterator[Figure]:
        """Make them all."""
        for subset, chosen in self._subsets.items():
            yield from self._means(subset, chosen)
            yield from self._sets(subset, chosen)
            yield from self._shares(subset, chosen)
        yield from self._horizons()

    def _means(self, subset: str, chosen: npt.NDArray[np.bool_]) -> Iterator[Figure]:
        table, first = self._table, self._names[0]
        clusters = _pick(table.clusters, chosen)
        for metric in self._by_clip:
            for name in self._names:
                conditions = table.conditions(name)
                values = {c: table.by_clip(name, metric.name, c)[chosen] for c in conditions}
                for condition, row in values.items():
                    yield self._figure(
                        name, metric, mean_interval(row, clusters), condition=condition,
                        subset=subset,
                    )  # fmt: skip
                    if condition not in (ask.TRUE, ask.RECONSTRUCTION):
                        yield self._figure(
                            name, metric, paired_interval(row, values[ask.TRUE], clusters),
                            minus=condition, subset=subset,
                        )  # fmt: skip
                if name != first:
                    ours = table.by_clip(first, metric.name)[chosen]
                    yield self._figure(
                        first, metric, paired_interval(values[ask.TRUE], ours, clusters),
                        minus=name, subset=subset,
                    )  # fmt: skip

    def _sets(self, subset: str, chosen: npt.NDArray[np.bool_]) -> Iterator[Figure]:
        table = self._table
        clusters = _pick(table.clusters, chosen)
        for metric in self._by_set:
            if chosen.sum() < metric.minimum and subset != "all":
                self.notes.append(
                    f"{metric.name} of the {int(chosen.sum())} {subset} clips is left out: it "
                    f"needs {metric.minimum}."
                )
                continue
            true = _pick(table.features("true", metric.source), chosen)
            for name in self._names:
                predicted = _pick(table.features(name, metric.source), chosen)
                found = jackknife_interval(set_distance(metric, predicted, true), clusters)
                yield self._figure(name, metric, found, subset=subset)

    def _shares(self, subset: str, chosen: npt.NDArray[np.bool_]) -> Iterator[Figure]:
        clusters = _pick(self._table.clusters, chosen)
        for key, title in (("retrieval", ask.RETRIEVAL), ("preferred", ask.PREFERRED)):
            metric = MetricFacts(title, "", "higher", "")
            by_chance = MetricFacts(f"{title}, by chance", "", "", "")
            for name in self._names:
                found = self._table.share(key, name)[chosen]
                if np.isnan(found).all():
                    continue
                yield self._figure(
                    name, metric, mean_interval(found[:, 0], clusters), subset=subset
                )
                guessed = mean_interval(1 / found[:, 1], clusters)
                yield self._figure(name, by_chance, guessed, subset=subset)

    def _horizons(self) -> Iterator[Figure]:
        for metric in self._by_frame:
            for name in self._names:
                for condition in (ask.TRUE, ask.RECONSTRUCTION):
                    if condition not in self._table.conditions(name):
                        continue
                    values = self._table.by_frame(name, metric.name, condition)
                    found = mean_intervals(values, self._table.clusters)
                    for frame, interval in enumerate(found, start=self._protocol.num_given):
                        yield self._figure(name, metric, interval, condition=condition, frame=frame)

    def _figure(
        self, predictor: str, metric: MetricFacts, interval: Interval, **where: Any
    ) -> Figure:
        return Figure(
            block=self._blocks[predictor],
            metric=metric.name,
            unit=metric.unit,
            better=metric.better,
            **vars(interval),
            **where,
        )


def set_distance(
    metric: MetricFacts,
    predicted: Sequence[npt.NDArray[Any]],
    true: Sequence[npt.NDArray[Any]],
) -> Callable[[npt.NDArray[np.int64]], float]:
    """Make the distance of the clips at some places, NaN for fewer than two."""

    def distance(places: npt.NDArray[np.int64]) -> float:
        if len(places) < _FEWEST:
            return math.nan
        return metric.distance([predicted[i] for i in places], [true[i] for i in places])

    return distance


def _pick(values: Sequence[Any], chosen: npt.NDArray[np.bool_]) -> list[Any]:
    return [value for value, taken in zip(values, chosen, strict=True) if taken]


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
