"""An evaluation from recordings to a report, that goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from aid_robot.errors import ConfigError, EvaluationError, MetricError
from aid_robot.evaluation.clips import Chosen, Source, choose_clips
from aid_robot.evaluation.judge import Judged, Plan, load_metrics
from aid_robot.evaluation.metrics.objects import Camera
from aid_robot.evaluation.placement import FIGURES
from aid_robot.evaluation.predictors import load_predictor, model_hash, model_name
from aid_robot.evaluation.protocols import EvaluationProtocol, versions
from aid_robot.evaluation.results import REPORT, RESULTS, RunFolder, write_whole
from aid_robot.evaluation.summary import MetricFacts, Summary, summarize
from aid_robot.evaluation.workers import judge_here, judge_on_devices, judge_on_ray
from aid_robot.predictor import Predictor

if TYPE_CHECKING:
    from aid_robot.data.clips import Split

# What a plain install can measure.
DEFAULT_METRICS = ("psnr", "motion")


def evaluate(
    sources: Sequence[str | os.PathLike[str] | Source],
    predictors: Sequence[str] | Mapping[str, str | Predictor],
    protocol: EvaluationProtocol,
    folder: str | os.PathLike[str],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    asked: Sequence[str] | None = None,
    scales: Sequence[float] = (),
    options: Mapping[str, Any] | None = None,
    batch: int = 4,
    camera: Camera | None = None,
    device: str = "auto",
    devices: int = 1,
    ray: str | None = None,
    force: bool = False,
) -> Summary:
    """Judge predictors on recorded episodes, and write figures and a report.

    Args:
        sources: Stores or recordings of any layout.
        predictors: What `make_predictor` takes, or a name for each; the first is the one that the
            others are compared with. Predictors themselves are judged in this process only.
        protocol: Which clips, and what of them.
        folder: Where verdicts, figures and the report go; a run that was stopped there goes on.
        metrics: Of `aid_robot.evaluation.metrics`.
        asked: Predictors that are asked counterfactuals; by default the first.
        scales: Values of s_t that these are asked, too.
        options: What all predictors are called with, see PredictOptions.
        batch: Clips predicted in one call.
        camera: That sees the table of simulated episodes, to tell where things end.
        device: Where this process predicts.
        devices: Processes, each with a GPU of its own where there are any.
        ray: Address of a Ray cluster that judges instead.
        force: Whether FVD and the like are also measured of too few clips.

    Raises:
        DataFormatError, ConfigError, MetricError, FrameCountError, ...: Each says what to do.
    """
    plan = make_plan(
        sources, predictors, protocol, metrics=metrics, asked=asked, scales=scales,
        options=options, batch=batch, camera=camera,
    )  # fmt: skip
    if devices < 1:
        raise ConfigError(f"devices={devices}; expected at least 1")
    # The VAE that latent_l2 needs is a predictor's own.
    needed = list(plan.predictors.values()) if "latent_l2" in plan.metrics else []
    made = (load_predictor(spec, protocol, "cpu") for spec in needed)
    facts = [MetricFacts.of(m) for m in load_metrics(plan.metrics, protocol, "cpu", made)]
    if camera is not None:
        facts += [MetricFacts(name, *said, per="clip") for name, said in FIGURES.items()]
    chosen = choose_clips(plan.sources, protocol, held_out_rule(plan))
    if not force:
        _check_counts(facts, len(chosen.clips))
    kept = RunFolder(folder)
    kept.begin(_describe(plan, chosen, facts))
    tasks = chosen.tasks(plan.batch)
    done = kept.done()
    left = [task for task in tasks if not all(clip.key in done for clip in task)]
    ready = sum(map(len, tasks)) - sum(map(len, left))
    work: Iterator[list[Judged]]
    if not left:
        work = iter(())
    elif ray is not None:
        work = judge_on_ray(plan, left, ray)
    elif devices > 1:
        work = judge_on_devices(plan, left, devices)
    else:
        work = judge_here(plan, left, device)
    with tqdm(total=len(chosen.clips), initial=ready, desc="evaluate", unit="clip") as bar:
        for judged in work:
            kept.append(judged)
            bar.update(len(judged))
    return write_figures(kept)


def write_figures(folder: RunFolder) -> Summary:
    """Compute the figures of an evaluation whose clips have been judged, and write the report."""
    from aid_robot.evaluation.report import write_report

    summary = summarize(folder)
    write_whole(folder.path / RESULTS, json.dumps(summary.to_json(), indent=1) + "\n")
    write_report([folder], folder.path / REPORT)
    return summary


def make_plan(
    sources: Sequence[str | os.PathLike[str] | Source],
    predictors: Sequence[str] | Mapping[str, str | Predictor],
    protocol: EvaluationProtocol,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    asked: Sequence[str] | None = None,
    scales: Sequence[float] = (),
    options: Mapping[str, Any] | None = None,
    batch: int = 4,
    camera: Camera | None = None,
) -> Plan:
    """Check what `evaluate` is asked for."""
    named = dict(predictors) if isinstance(predictors, Mapping) else {p: p for p in predictors}
    for what, given in (("recording", sources), ("predictor", named), ("metric", metrics)):
        if isinstance(given, str) or not given:
            raise ConfigError(f"{given!r} was given; expected at least one {what}, in a list")
    if batch < 1:
        raise ConfigError(f"batch={batch}; expected at least 1")
    asked = tuple(named)[:1] if asked is None else tuple(asked)
    for name in asked:
        if name not in named:
            raise ConfigError(
                f"counterfactuals are asked of '{name}'; expected one of {', '.join(named)}"
            )
    return Plan(
        protocol=protocol,
        sources=tuple(s if isinstance(s, Source) else Source(os.fspath(s)) for s in sources),
        predictors=named,
        metrics=tuple(dict.fromkeys(metrics)),
        asked=asked,
        scales=tuple(dict.fromkeys(float(scale) for scale in scales)),
        options=dict(options or {}),
        batch=batch,
        camera=camera,
    )


def held_out_rule(plan: Plan) -> Split | None:
    """Read which episodes the models have not seen; None where none says so.

    Raises EvaluationError where models were held out differently, so that none is judged on what
    it was trained on.
    """
    from aid_robot.hub import resolve
    from aid_robot.training.data import read_split

    found: dict[str, Split] = {}
    for name, spec in plan.predictors.items():
        model = model_name(spec) if isinstance(spec, str) else ""
        rule = read_split(resolve(model)) if model else None
        if rule is not None:
            found[name] = rule
    if len(set(found.values())) > 1 and plan.protocol.split == "held-out":
        rules = ", ".join(f"'{n}': {r.share:g} with seed {r.seed}" for n, r in found.items())
        raise EvaluationError(
            f"the models hold out different episodes ({rules}), so one may have been trained on "
            "what another has never seen: give a list of episodes that none has been trained on as "
            "split, such as the MODEL/aid/split.json of the one that saw these recordings"
        )
    return next(iter(found.values()), None)


def _describe(plan: Plan, chosen: Chosen, metrics: Sequence[MetricFacts]) -> dict[str, Any]:
    """Say what decides the figures; where recordings and models lie does not."""
    return {
        "protocol": dataclasses.asdict(plan.protocol),
        "clips": dataclasses.asdict(chosen.facts),
        "unreadable": chosen.unreadable,
        "predictors": {
            name: {"spec": spec if isinstance(spec, str) else "", "hash": model_hash(spec)}
            for name, spec in plan.predictors.items()
        },
        "metrics": [vars(metric) for metric in metrics],
        "asked": plan.asked,
        "scales": plan.scales,
        "options": plan.options,
        "batch": plan.batch,
        "camera": None if plan.camera is None else str(plan.camera),
        "versions": versions(),
    }


def _check_counts(metrics: Sequence[MetricFacts], clips: int) -> None:
    for metric in metrics:
        if clips < metric.minimum:
            raise MetricError(
                f"{metric.name} needs {metric.minimum} clips and there are {clips}: of so few it "
                "says more of their number than of the model. Take more clips, leave it out, or "
                "force it (--force), which shows how uncertain it is"
            )
