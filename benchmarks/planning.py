"""Closed loop on the simulated table: does imagination choose the plan that reaches the goal?

    python benchmarks/planning.py --scenes 200 --two-step 100 -o benchmarks/results/planning.json
    python benchmarks/planning.py --scenes 10 --predictor oracle   # scorers alone

Each scene is unseen in training, with 4 to 8 plans that can be carried out; what truly comes of
each is simulated once. Goals are given as text (one the very goal of a plan, or a consequence of
one) and as a picture taken at the end of another execution. A planner's choice counts as a success
where that plan, carried out in the simulator, reaches the goal. Beside it stand random choice, a
match of words without foresight, and the oracle that simulates each plan. The predictor "oracle"
imagines the true futures, which separates the scorers' faults from the model's.

The first fifth of the scenes (--fit) fits calibration and thresholds, and counts nowhere else. What
was made and imagined is kept in --work; run the same command again to go on after a stop.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planning_judge import Outcome, compare_without_foresight, judge
from planning_loop import close_the_loop
from planning_scenes import EVERY, Scene, SceneMaker
from tqdm import tqdm

from aid_robot.baselines.registry import make_predictor
from aid_robot.clip import Foresight
from aid_robot.errors import AIDRobotError
from aid_robot.hub import CHECKSUMS, resolve
from aid_robot.planning.calibration import Calibration, reliability
from aid_robot.planning.charts import draw_reliability
from aid_robot.planning.choose import aggregate, choose
from aid_robot.planning.decision import Decision
from aid_robot.planning.drawing import draw_decision
from aid_robot.planning.goals import Goal
from aid_robot.planning.imagine import Imagination
from aid_robot.planning.plans import Plan
from aid_robot.planning.scorers import Scorer, make_scorer
from aid_robot.planning.scorers.scorer import name_of
from aid_robot.planning.success.model import FOLDER as SUCCESS
from aid_robot.planning.sweep import sweep
from aid_robot.predictor import Predictor

ORACLE = "oracle"
# Frames of an imagined clip that are kept for the scorers, the last among them.
KEPT = 8
DEFAULT_SCORERS = {
    "text": ("success", "progress", "success+0.3*agreement", "success+words", "words"),
    "image": ("image:latent", "image:lpips", "image:clip", "success", "success+image:latent"),
}


# -- imagination -----------------------------------------------------------------------------------


def imagine(
    predictor: Predictor,
    scene: Scene,
    samples: int,
    clips_per_step: int,
    options: Mapping[str, Any],
) -> list[Foresight]:
    """Imagine each plan, an instruction in several clips where a skill is longer than one."""
    plans = [tuple(plan) for plan in scene.facts.plans]
    imagination = Imagination(
        predictor, [(scene.observation, scene.facts.number)], samples, clips_per_step, **options
    )
    imagination.add((0, plan) for plan in plans)
    return [thin(imagination.foresight(0, plan)) for plan in plans]


def thin(clip: Foresight) -> Foresight:
    """Keep the given frames and some of the others."""
    given = clip.num_conditioning_frames
    at = np.unique(np.linspace(given, len(clip) - 1, KEPT).round().astype(int))
    frames = np.concatenate([clip.frames[:, :given], clip.frames[:, at]], axis=1)
    return replace(clip, frames=frames)


def true_futures(scene: Scene) -> list[Foresight]:
    """Imagine without fault."""
    return [
        thin(Foresight(clip[None], 5 / EVERY, " -> ".join(plan), 1, model_id=ORACLE))
        for clip, plan in zip(scene.futures, scene.facts.plans, strict=True)
    ]


def imagined(
    name: str, scenes: Sequence[Scene], args: argparse.Namespace
) -> Iterator[list[Foresight]]:
    """Imagine the plans of each scene, or read what was imagined before."""
    if name == ORACLE:
        yield from (true_futures(scene) for scene in tqdm(scenes, desc=name, unit="scene"))
        return
    sampled = f"s{args.samples}-r{args.clips_per_step}-n{args.steps or 'default'}"
    about = f"{name}-{weights_of(name)}-{sampled}"
    folder = args.work / "imagined" / re.sub(r"[^\w.-]+", "_", about)
    folder.mkdir(parents=True, exist_ok=True)
    predictor: Predictor | None = None
    for scene in tqdm(scenes, desc=f"imagine by {name}", unit="scene"):
        path = folder / f"{scene.facts.steps}-{scene.facts.number:04d}.npz"
        if not path.exists():
            predictor = predictor or make_predictor(name)
            options = {"steps": args.steps} if args.steps else {}
            found = imagine(predictor, scene, args.samples, args.clips_per_step, options)
            partial = path.with_suffix(".part")
            with partial.open("wb") as file:
                given = found[0].num_conditioning_frames
                frames = np.stack([clip.frames for clip in found])
                np.savez_compressed(file, frames=frames, fps=found[0].fps, given=given)
            partial.replace(path)
        with np.load(path) as file:
            yield [
                Foresight(frames, float(file["fps"]), " -> ".join(plan), int(file["given"]),
                          model_id=name)
                for frames, plan in zip(file["frames"], scene.facts.plans, strict=True)
            ]  # fmt: skip


def weights_of(name: str) -> str:
    """Tell a model from the same name's earlier weights, by the sizes and times of its files.

    What lies in it to judge imagined futures by does not count.
    """
    try:
        folder = resolve(name)
    except AIDRobotError:
        return "none"
    found = sorted(p for kind in ("safetensors", "json") for p in folder.rglob(f"*.{kind}"))
    files = [
        f for f in found
        if f.relative_to(folder).parts[0].partition(".")[0] != SUCCESS and f.name != CHECKSUMS
    ]  # fmt: skip
    facts = [(str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return f"{zlib.crc32(json.dumps(facts).encode()):08x}"


# -- the report ------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Make scenes, imagine, score, summarise."""
    size = args.size
    maker = SceneMaker(args.work / "scenes", size, args.preset)
    record: dict[str, Any] = {"goals": {}}
    for steps, count in ((1, args.scenes), (2, args.two_step)):
        if not count:
            continue
        scenes = [
            maker.scene(n, steps)
            for n in tqdm(range(count), desc=f"scenes of {steps} step(s)", unit="scene")
        ]
        fit = round(args.fit * count)
        baselines = compare_without_foresight(scenes[fit:])
        record["goals"][f"{steps}-step"] = {"baselines": baselines, "predictors": {}}
        for name in args.predictor:
            foresights = list(imagined(name, scenes, args))
            kinds = record["goals"][f"{steps}-step"]["predictors"][name] = {}
            for kind, names in (("text", args.text_scorers), ("image", args.image_scorers)):
                kinds[kind] = {}
                for scorer_name in names:
                    found = _score(scorer_name, kind, scenes, foresights, args)
                    if isinstance(found, str):
                        kinds[kind][scorer_name] = {"not run": found}
                        continue
                    scorer = name_of(_scorer(scorer_name, args.model))
                    figures, calibration = judge(found, fit, scorer)
                    kinds[kind][scorer_name] = figures
                    label = f"{steps}-step, {name}, goal as {kind}, {scorer_name}"
                    tqdm.write(_line(label, figures))
                    figures |= _draw(found, fit, calibration, label, args)
    return record


def _score(
    name: str, kind: str, scenes: Sequence[Scene], foresights: Sequence[list[Foresight]],
    args: argparse.Namespace,
) -> list[Outcome] | str:  # fmt: skip
    if "agreement" in name and foresights[0][0].num_samples < 2:
        return "one sample"
    try:
        scorer = _scorer(name, args.model)
        outcomes = []
        for scene, clips in zip(scenes, foresights, strict=True):
            facts = scene.facts
            goal = Goal(text=facts.text) if kind == "text" else Goal(image=scene.goal)
            reached = facts.reaches_text if kind == "text" else facts.reaches_image
            outcomes.append(Outcome(scene, clips, scorer(clips, goal), np.array(reached)))
    except AIDRobotError as error:
        return f"{type(error).__name__}: {error}"
    return outcomes


_MADE: dict[str, Scorer] = {}


def _scorer(name: str, model: str) -> Scorer:
    if name not in _MADE:
        _MADE[name] = make_scorer(name, model=model)
    return _MADE[name]


def _line(label: str, figures: Mapping[str, Any]) -> str:
    low, high = figures["interval"]
    return (
        f"{label:<64} success {figures['success']:6.1%} [{low:.0%}, {high:.0%}]  "
        f"random {figures['random']:5.1%}  plans AUROC {figures['auroc_of_plans']:.3f}  "
        f"abstention AUROC {figures['abstention_auroc']:.3f}"
    )


def _draw(
    outcomes: Sequence[Outcome], fit: int, calibration: Calibration | None, label: str,
    args: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    """Draw the sweep, the reliability and some failures; keep the calibration.

    Returns the curves.
    """
    folder = args.work / "pictures" / re.sub(r"[^\w.-]+", "_", label)
    folder.mkdir(parents=True, exist_ok=True)
    counted = outcomes[fit:]
    swept = sweep([o.scores for o in counted], [o.reached for o in counted])
    swept.draw().save(folder / "sweep.png")
    plans = np.concatenate([aggregate(o.scores, 0.5) for o in counted])
    reached = np.concatenate([o.reached for o in counted])
    curves = [("as scored", reliability(plans, reached))]
    if calibration is not None:
        curves.append(("calibrated", reliability(calibration(plans), reached)))
        calibration.save(folder / "calibration.json")
    draw_reliability(curves).save(folder / "reliability.png")
    drawn = 0
    for outcome in counted:
        scores = aggregate(outcome.scores, 0.5)
        if outcome.reached[np.argmax(scores)] or drawn == args.failures:
            continue
        drawn += 1
        facts = outcome.scene.facts
        plans_shown = tuple(
            Plan((*plan[:-1], f"{plan[-1]}{' (reaches it)' if came else ''}"))
            for plan, came in zip(facts.plans, outcome.reached, strict=True)
        )
        index, reason = choose(plans_shown, scores, None)
        goal = Goal(text=f"{facts.text} [{label}]", image=outcome.scene.goal)
        clips = tuple(outcome.foresights)
        shown = Decision(plans_shown, index, scores, outcome.scores, clips, goal, reason)
        draw_decision(shown).save(folder / f"failure-{facts.number:04d}.png")
    bins = {name: [asdict(one) for one in found] for name, found in curves}
    return {"sweep": asdict(swept), "reliability": bins}


def _acting_scorer(args: argparse.Namespace) -> Scorer:
    """Make the scorer that goals as text are decided by, or another where it isn't there."""
    try:
        return _scorer(args.text_scorers[0], args.model)
    except AIDRobotError as error:
        print(f"'plausibility' stands in for {args.text_scorers[0]}: {error}")
        return _scorer("plausibility", args.model)


def time_decisions(args: argparse.Namespace) -> dict[str, Any]:
    """Time a decision among 8 plans, and one plan alone, by stages."""
    predictor, scorer = make_predictor(args.model), _acting_scorer(args)
    maker = SceneMaker(args.work / "scenes", args.size, args.preset)
    scenes = [maker.scene(n, 1) for n in range(min(args.scenes, 40))]
    scene = max(scenes, key=lambda s: len(s.facts.plans))
    goal = Goal(text=scene.facts.text)
    plans = [tuple(plan) for plan in scene.facts.plans][:8]
    options = {"steps": args.steps} if args.steps else {}
    found: dict[str, Any] = {
        "plans": len(plans),
        "samples": args.samples,
        "clips a step": args.clips_per_step,
        "scorer": scorer.name,
    }

    def once(count: int) -> dict[str, float]:
        started = time.perf_counter()
        imagination = Imagination(
            predictor, [(scene.observation, 0)], args.samples, args.clips_per_step, **options
        )
        imagination.add((0, plan) for plan in plans[:count])
        between = time.perf_counter()
        scorer([imagination.foresight(0, plan) for plan in plans[:count]], goal)
        now = time.perf_counter()
        return {**imagination.timings, "imagine": between - started, "score": now - between,
                "total": now - started}  # fmt: skip

    for count in (1, len(plans)):
        once(count)
        rounds = [once(count) for _ in range(args.timings)]
        found[f"{count} plans"] = {
            stage: round(float(np.median([r[stage] for r in rounds])), 4) for stage in rounds[0]
        }
    return found


def main() -> None:
    """Run, print, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=200, help="with goals of one step")
    parser.add_argument("--two-step", type=int, default=0, help="scenes with goals of two steps")
    parser.add_argument("--model", default="bundled", help="its parts serve the scorers")
    parser.add_argument(
        "--predictor", action="append", help="who imagines: a model, copy-last-frame, oracle; may "
        "be repeated (default: the model and oracle)"
    )  # fmt: skip
    parser.add_argument("--samples", type=int, default=2, help="futures of each plan")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--clips-per-step", type=int, default=1, help="clips of an instruction, "
                        "one after the other, where skills take longer than one")  # fmt: skip
    parser.add_argument("--size", type=int, default=128, help="of the simulated frames")
    parser.add_argument("--preset", default="default", help="easy, default or hard")
    parser.add_argument("--fit", type=float, default=0.2, help="share of scenes to calibrate on")
    parser.add_argument("--text-scorers", type=_names, default=DEFAULT_SCORERS["text"])
    parser.add_argument("--image-scorers", type=_names, default=DEFAULT_SCORERS["image"])
    parser.add_argument("--failures", type=int, default=6, help="pictures of failures of each row")
    parser.add_argument("--timings", type=int, default=0, help="rounds of timed decisions")
    parser.add_argument(
        "--loop", type=int, default=0, help="scenes that a ForesightPlanner acts in"
    )
    parser.add_argument("--work", type=Path, default=Path("planning.work"))
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    args.predictor = args.predictor or [args.model, ORACLE]
    hardware = {"machine": platform.machine(), "threads": torch.get_num_threads(),
                "torch": torch.__version__, "python": platform.python_version()}  # fmt: skip
    print(hardware)
    record = {"hardware": hardware, "arguments": {k: str(v) for k, v in vars(args).items()}}
    record |= run(args)
    _write(record, args.output)
    if args.timings:
        record["timings"] = time_decisions(args)
        print(json.dumps(record["timings"], indent=1))
    if args.loop:
        _write(record, args.output)
        scorers = {
            "text": _acting_scorer(args),
            "image": _scorer(args.image_scorers[0], args.model),
        }
        record["loop"] = close_the_loop(
            SceneMaker(args.work / "scenes", args.size, args.preset),
            make_predictor(args.model),
            scorers,
            args,
            lambda found: _write({**record, "loop": found}, args.output),
        )
        print(json.dumps(record["loop"], indent=1))
    for goals, found in record["goals"].items():
        print(f"{goals}: {json.dumps(found['baselines'])}")
    _write(record, args.output)


def _write(record: Mapping[str, Any], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    main()
