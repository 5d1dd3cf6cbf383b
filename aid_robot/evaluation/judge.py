"""Predict clips under every condition and measure them: what a worker does.

A verdict is plain JSON, so that it may come from another process or machine and be kept as a line:

    clip, episode, start, cluster, group, instruction, paraphrase, other
    motion      mean change of the truth a frame, as of `frame_motion`
    values      predictor -> condition -> metric -> a value a predicted frame, or one of the clip
    features    "true" or predictor -> features of the clip, for the distances of sets
    retrieval   predictor -> [credit, instructions]
    preferred   predictor -> credit of the true instruction against the other one
    facts       predictor -> size of its frames, and what they were sampled with
    strip       rows and frames of the clip's picture
    error       in place of all that, why the clip can't be read
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from aid_robot.data.clips.motion import frame_motion
from aid_robot.data.episode import Episode
from aid_robot.data.ingest import Recording
from aid_robot.errors import AIDRobotError, MetricError
from aid_robot.evaluation import faithfulness as ask
from aid_robot.evaluation.clips import ClipAt, Source, cut_clip
from aid_robot.evaluation.faithfulness import Question
from aid_robot.evaluation.metrics import make_metrics
from aid_robot.evaluation.metrics.metric import FrameMetric, SetMetric
from aid_robot.evaluation.metrics.objects import Camera
from aid_robot.evaluation.placement import KnownTable, judge_placement, lay_table
from aid_robot.evaluation.predictors import (
    check_fit,
    load_predictor,
    model_name,
    reconstruct,
)
from aid_robot.evaluation.protocols import EvaluationProtocol
from aid_robot.evaluation.strips import draw_rows
from aid_robot.hub import BUNDLED
from aid_robot.observation import resize_frames
from aid_robot.predictor import PredictOptions, Predictor, Request

if TYPE_CHECKING:
    from aid_robot.clip import Foresight

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
Verdict: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is done with each clip; what a worker needs to know."""

    protocol: EvaluationProtocol
    sources: tuple[Source, ...]
    # Name -> what `make_predictor` makes it of, or the predictor itself.
    predictors: Mapping[str, str | Predictor]
    metrics: tuple[str, ...] = ("psnr",)
    # Those that are asked counterfactuals.
    asked: tuple[str, ...] = ()
    # Values of s_t that these are asked, too.
    scales: tuple[float, ...] = ()
    # What all predictors are called with.
    options: Mapping[str, Any] = field(default_factory=dict)
    # Clips predicted in one call.
    batch: int = 4
    # That sees the table of simulated episodes, to tell where things end; None doesn't ask.
    camera: Camera | None = None


@dataclass(frozen=True)
class Judged:
    """A clip's verdict, and its picture."""

    verdict: Verdict
    strip: bytes | None = None


class Judge:
    """Predicts and measures; made once in each worker.

    Raises:
        FrameCountError, FrameRateError: A predictor does not fit the protocol.
    """

    def __init__(self, plan: Plan, device: str = "auto") -> None:
        self.plan = plan
        self.predictors = {
            name: load_predictor(spec, plan.protocol, device)
            for name, spec in plan.predictors.items()
        }
        for name, predictor in self.predictors.items():
            check_fit(name, predictor, plan.protocol)
        metrics = load_metrics(plan.metrics, plan.protocol, device, self.predictors.values())
        # Of several variants of one model, whose autoencoders are the same, one.
        models = {
            name: (model_name(s) if s else "") or name for name, s in named_specs(plan).items()
        }
        self.with_ceiling = {model: name for name, model in reversed(models.items())}.values()
        self.frame_metrics = [m for m in metrics if isinstance(m, FrameMetric)]
        # Several distances may be of the same features, which are computed once.
        self.sources = {m.source: m for m in metrics if isinstance(m, SetMetric)}
        self._recordings: dict[int, Recording] = {}

    def judge(self, task: Sequence[ClipAt]) -> list[Judged]:
        """Judge the clips of a task together."""
        cases: list[_Clip] = []
        failed: dict[ClipAt, Judged] = {}
        for clip in task:
            try:
                episode = self._recording(clip.source)[clip.index]
                frames = cut_clip(episode, clip, self.plan.protocol)
            except (AIDRobotError, OSError) as error:
                text = " ".join(str(error).split())
                failed[clip] = Judged({**_about(clip), "error": text})
            else:
                cases.append(_Clip(self, clip, frames, self._table(episode, clip)))
        for name in self.predictors:
            self._predict(name, cases)
        done = {case.clip: case.close() for case in cases}
        return [{**done, **failed}[clip] for clip in task]

    def _table(self, episode: Episode, clip: ClipAt) -> KnownTable | None:
        if self.plan.camera is None:
            return None
        protocol = self.plan.protocol
        last = clip.start + (protocol.num_frames - 1) * clip.stride
        return lay_table(episode, clip, last, protocol.size, self.plan.camera)

    def _recording(self, source: int) -> Recording:
        if source not in self._recordings:
            self._recordings[source] = self.plan.sources[source].open()
        return self._recordings[source]

    def _predict(self, name: str, cases: Sequence[_Clip]) -> None:
        """Answer all questions to a predictor; the same question of the same frames once."""
        plan, given = self.plan, self.plan.protocol.num_given
        task = [case.clip for case in cases]
        wanted: dict[tuple[str, int, bytes], tuple[Question, Request]] = {}
        of_case: list[dict[str, tuple[str, int, bytes]]] = []
        for case in cases:
            asked = ask.questions(case.clip, counterfactuals=name in plan.asked, scales=plan.scales)
            if name in plan.asked:
                texts = ask.rivals(case.clip, task)[1:]
                asked |= {f"rival {n}": Question(text) for n, text in enumerate(texts)}
            seed = ask.noise_seed(case.clip, plan.protocol.seed)
            start = case.frames[:given]
            keys = {}
            for condition, question in asked.items():
                key = (repr(question), seed, start.tobytes())
                keys[condition] = key
                wanted.setdefault(key, (question, Request(start, question.instruction, seed)))
            of_case.append(keys)
        answers = self._answer(name, wanted)
        for case, keys in zip(cases, of_case, strict=True):
            case.add(name, {condition: answers[key] for condition, key in keys.items()})

    def _answer(
        self,
        name: str,
        wanted: Mapping[tuple[str, int, bytes], tuple[Question, Request]],
    ) -> dict[tuple[str, int, bytes], Foresight]:
        answers: dict[tuple[str, int, bytes], Foresight] = {}
        scales = dict.fromkeys(question.text_guidance_scale for question, _ in wanted.values())
        for scale in scales:
            some = {k: r for k, (q, r) in wanted.items() if q.text_guidance_scale == scale}
            options = cast(PredictOptions, dict(self.plan.options))
            if scale is not None:
                options["text_guidance_scale"] = scale
            found = self.predictors[name].predict_many(
                list(some.values()), num_samples=self.plan.protocol.samples, **options
            )
            answers |= dict(zip(some, found, strict=True))
        return answers


class _Clip:
    """A clip whose verdict is being written."""

    def __init__(
        self, judge: Judge, clip: ClipAt, frames: UInt8Array, table: KnownTable | None
    ) -> None:
        self._judge, self.clip, self.frames, self._table = judge, clip, frames, table
        protocol = judge.plan.protocol
        self._given, self._true = frames[: protocol.num_given], frames[protocol.num_given :]
        self._verdict: Verdict = {
            **_about(clip),
            "motion": float(frame_motion(frames)[1:].mean()),
            **{name: {} for name in ("values", "features", "retrieval", "preferred", "facts")},
        }
        self._rows: list[tuple[str, str, UInt8Array]] = [("truth", "", frames)]
        if judge.sources:
            self._verdict["features"]["true"] = self._features(self._true)

    def add(self, name: str, answers: Mapping[str, Foresight]) -> None:
        """Measure what a predictor answered."""
        judge, verdict = self._judge, self._verdict
        shown = {c: self._predicted(name, f) for c, f in answers.items()}
        kept = {c: frames for c, frames in shown.items() if not c.startswith("rival ")}
        values = {c: self._measure(frames) for c, frames in kept.items()}
        if name in judge.with_ceiling:
            sent = reconstruct(judge.predictors[name], self.frames, judge.plan.protocol)
            if sent is not None:
                values[ask.RECONSTRUCTION] = self._measure(sent[None])
        verdict["values"][name] = values
        true = shown[ask.TRUE]
        if judge.sources:
            verdict["features"][name] = self._features(true[0])
        if name in judge.plan.asked:
            distances = {c: ask.pixel_distance(frames, self._true) for c, frames in shown.items()}
            rivals = [d for c, d in distances.items() if c.startswith("rival ")]
            if rivals:
                found = [distances[ask.TRUE], *rivals]
                verdict["retrieval"][name] = [ask.credit(found), len(found)]
            if ask.SHUFFLED in distances:
                pair = [distances[ask.TRUE], distances[ask.SHUFFLED]]
                verdict["preferred"][name] = ask.credit(pair)
        first = answers[ask.TRUE]
        verdict["facts"][name] = {
            "size": list(first.frames.shape[2:4]),
            "settings": _plain(dict(first.settings)),
        }
        for condition, frames in kept.items():
            if condition in (ask.TRUE, *ask.COUNTERFACTUALS):
                whole = np.concatenate([self._given, frames[0]])
                self._rows.append((name, condition, whole))

    def close(self) -> Judged:
        """Draw the picture, and give the verdict."""
        columns, strip = draw_rows(
            [frames for _, _, frames in self._rows], self._judge.plan.protocol.num_given
        )
        rows = [[name, condition] for name, condition, _ in self._rows]
        return Judged({**self._verdict, "strip": {"rows": rows, "columns": columns}}, strip)

    def _predicted(self, name: str, foresight: Foresight) -> UInt8Array:
        """Return the predicted frames (B, F, H, W, 3) at the protocol's size."""
        frames = foresight.frames
        wanted = (self._judge.plan.protocol.samples, self._judge.plan.protocol.num_frames)
        if frames.shape[:2] != wanted:
            raise MetricError(
                f"predictor '{name}' gave frames of shape {frames.shape} for clip "
                f"'{self.clip.key}', expected {wanted[0]} samples of {wanted[1]} frames"
            )
        return resize_frames(frames[:, len(self._given) :], self._judge.plan.protocol.size)

    def _measure(self, samples: UInt8Array) -> dict[str, list[float | None]]:
        """Measure each frame, averaged over samples (B, F, H, W, 3)."""
        found = {}
        for metric in self._judge.frame_metrics:
            values = [metric(frames, self._true, given=self._given) for frames in samples]
            mean = np.mean(values, axis=0)
            found[metric.name] = [float(v) if np.isfinite(v) else None for v in mean]
        if self._table is not None:
            found |= judge_placement(self._table, samples, self._true, self._given)
        return found

    def _features(self, frames: UInt8Array) -> dict[str, str]:
        return {
            source: pack_features(metric.features(frames))
            for source, metric in self._judge.sources.items()
        }


def load_metrics(
    names: Sequence[str],
    protocol: EvaluationProtocol,
    device: str,
    predictors: Iterable[Predictor] = (),
) -> list[FrameMetric | SetMetric]:
    """Make metrics of their names; latent_l2 is measured by the first predictor that has a VAE."""
    models = (getattr(predictor, "model", None) for predictor in predictors)
    model = next((model for model in models if model is not None), BUNDLED)
    return list(make_metrics(list(names), size=protocol.size, model=model, device=device))


def named_specs(plan: Plan) -> dict[str, str]:
    """Say what predictors are made of, "" for one that was made before."""
    return {n: spec if isinstance(spec, str) else "" for n, spec in plan.predictors.items()}


def pack_features(features: npt.NDArray[Any]) -> str:
    """Write features (D,) or (M, D) as text."""
    rows = np.atleast_2d(np.asarray(features, "<f4"))
    return f"{len(rows)}:{base64.b64encode(rows.tobytes()).decode()}"


def unpack_features(text: str) -> npt.NDArray[np.float64]:
    """Read what `pack_features` wrote, (M, D)."""
    count, _, packed = text.partition(":")
    rows = np.frombuffer(base64.b64decode(packed), "<f4").reshape(int(count), -1)
    return rows.astype(np.float64)


def _about(clip: ClipAt) -> Verdict:
    return {
        "clip": clip.key,
        **{
            name: getattr(clip, name)
            for name in (
                "episode", "start", "cluster", "group", "instruction", "paraphrase", "other"
            )
        },
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Turn settings into what JSON knows; infinity becomes a text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)
