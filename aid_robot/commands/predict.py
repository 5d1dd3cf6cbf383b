"""`aid-robot predict`: from a picture and an instruction to a video of what follows."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from aid_robot.errors import ConfigError, FrameRateError, InstructionError
from aid_robot.model.config import SamplerName

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aid_robot.clip import Foresight
    from aid_robot.commands.inputs import Input, View

HELP = "predict the video that follows a camera frame under an instruction"
_DEFAULT_OUTPUT = Path("foresight.mp4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="an image, a video, a recording (PATH, PATH#NUMBER or PATH#ID for one of its "
        "episodes), or the number of a webcam",
    )
    parser.add_argument(
        "instruction",
        nargs="?",
        help="what the robot is told, in quotes (default: what the recording says)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        metavar="FILE",
        help=f".mp4, .gif, .png or .npz; may be given several times (default: {_DEFAULT_OUTPUT})",
    )
    parser.add_argument(
        "--plan",
        nargs="+",
        metavar="STEP",
        help="instructions to carry out one after the other, in place of the single one",
    )
    _add_source_arguments(parser)
    _add_model_arguments(parser)


def _add_source_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where to start, and what to compare with")
    group.add_argument(
        "--frame",
        type=int,
        help="frame of the video or episode to start from, counted from 0; a model that takes K "
        "frames takes the K that end there (default: the first possible)",
    )
    group.add_argument("--camera", help="camera of the episode (default: its fixed main view)")
    group.add_argument(
        "--fps",
        type=float,
        help="frames a second at which a recording was made, where it doesn't say it, or wrongly",
    )
    truth = group.add_mutually_exclusive_group()
    truth.add_argument(
        "--compare",
        action="store_true",
        default=None,
        help="show what was recorded beside the prediction, or fail (default: show it where it "
        "was recorded at the model's rate)",
    )
    truth.add_argument(
        "--no-truth", dest="compare", action="store_false", help="show the prediction alone"
    )


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and sampling (defaults: the model's own)")
    group.add_argument("--model", default="bundled", help="'bundled', a folder, or a hub id")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16")
    group.add_argument(
        "--states",
        default="template",
        help="who describes the states on the way: template, llava:FOLDER-OR-ID, or "
        "endpoint:URL#MODEL",
    )
    group.add_argument("--samples", type=int, default=1, help="futures to draw (default: 1)")
    group.add_argument("--seed", type=int, help="same seed, same frames (default: a new one)")
    group.add_argument("--steps", type=int, help="denoising steps")
    group.add_argument("--sampler", choices=get_args(SamplerName))
    group.add_argument(
        "--image-guidance-scale",
        type=_scale,
        metavar="S[,S]",
        help="one number, or two for the first and the last frame",
    )
    group.add_argument("--text-guidance-scale", type=float, metavar="S")
    group.add_argument(
        "--still-threshold",
        type=float,
        metavar="T",
        help="keep the given frame's pixels where less than this changes; 0 decodes all",
    )


def run(args: argparse.Namespace) -> int:
    """Predict, save and print a summary."""
    # Errors that need no model come first: loading one can take minutes.
    outputs = _check_outputs(args.output or [_DEFAULT_OUTPUT])
    from aid_robot.commands.inputs import open_input

    source = open_input(args.input, camera=args.camera, fps=args.fps)
    plan = _choose_plan(args, source)

    from aid_robot.commands import quiet_libraries
    from aid_robot.foresight import VideoForesight
    from aid_robot.predictor import PredictOptions

    if "debug" not in args:
        quiet_libraries()
    started = time.perf_counter()
    model = VideoForesight.from_pretrained(
        args.model, device=args.device, dtype=args.dtype, states=args.states
    )
    loaded = time.perf_counter() - started

    count = model.num_conditioning_frames
    view = source.view(count, model.fps, args.frame)
    compared, notes = _can_compare(view, source, count, model.fps, args.compare)
    options = _options(args)
    # The rate matters only between given frames.
    if count > 1 and source.fps is not None:
        options["fps"] = source.fps
    ask: Any = model.predict if args.plan is None else model.rollout
    foresight: Foresight = ask(
        view.frames,
        plan[0] if args.plan is None else plan,
        num_samples=args.samples,
        seed=args.seed,
        **cast(PredictOptions, options),
    )

    truth = view.recorded[: len(foresight)] if view.recorded is not None and compared else None
    if truth is not None and source.instruction not in (None, foresight.instruction):
        notes.append(f"the truth shows the recording's own instruction, '{source.instruction}'")
    started = time.perf_counter()
    for path in outputs:
        foresight.save(path, truth=None if path.suffix.lower() == ".npz" else truth)
    times = {"load": loaded, **foresight.timings, "save": time.perf_counter() - started}
    _print_summary(foresight, view, times, truth, outputs, [*source.notes, *notes])
    return 0


def _scale(text: str) -> float | tuple[float, float]:
    numbers = [float(part) for part in text.split(",")]
    if len(numbers) > 2:
        raise ValueError(text)
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _check_outputs(paths: Sequence[Path]) -> list[Path]:
    """Refuse what could not be saved, and make the folders."""
    from aid_robot.clip import SUFFIXES

    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigError(
                f"cannot save a prediction as '{path}': expected a name ending in "
                + ", ".join(SUFFIXES)
            )
        if path.is_dir():
            raise ConfigError(f"cannot save a prediction as '{path}': it is a folder; name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
    return list(paths)


def _choose_plan(args: argparse.Namespace, source: Input) -> list[str]:
    if args.plan is not None:
        if args.instruction is not None:
            raise InstructionError(
                f"both the instruction '{args.instruction}' and a --plan were given: make it the "
                "first step of the plan, or leave one out"
            )
        return list(args.plan)
    if args.instruction is not None:
        return [args.instruction]
    if source.instruction is not None:
        return [source.instruction]
    if args.text_guidance_scale == 0:
        return [""]
    raise InstructionError(
        f"'{args.input}' carries no instruction: give one, as in aid-robot predict {args.input} "
        '"put the carrot on the plate", or predict without text by --text-guidance-scale 0'
    )


def _options(args: argparse.Namespace) -> dict[str, Any]:
    names = (
        "steps", "sampler", "image_guidance_scale", "text_guidance_scale", "still_threshold"
    )  # fmt: skip
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    options["progress"] = sys.stderr.isatty()
    return options


def _can_compare(
    view: View, source: Input, given: int, fps: float, compare: bool | None
) -> tuple[bool, list[str]]:
    """Tell whether what was recorded can be shown; else say why not, or fail if that was asked."""
    if compare is False or (view.recorded is None and compare is None):
        return False, []
    if view.recorded is None:
        raise ConfigError(f"{view.where} has no recording to compare with: leave out --compare")
    problem = ""
    if source.fps is None:
        problem = "its frames a second are unknown; give them by --fps"
    elif abs(source.fps - fps) > 1e-3:
        problem = (
            f"it has {source.fps:g} frames a second, the model {fps:g}; if the world was recorded "
            "at another rate than the file plays, give it by --fps"
        )
    elif len(view.recorded) <= given:
        problem = "it ends with the frame that the prediction starts from; choose an earlier one"
    if not problem:
        return True, []
    problem = f"the recording can't be compared: {problem}"
    if compare:
        raise FrameRateError(problem)
    return False, [problem]


def _print_summary(
    foresight: Foresight,
    view: View,
    times: dict[str, float],
    truth: NDArray[np.uint8] | None,
    outputs: Sequence[Path],
    notes: Sequence[str],
) -> None:
    height, width = foresight.frames.shape[2:4]
    count = f"{foresight.num_samples} x " if foresight.num_samples > 1 else ""
    rows = [
        ("instruction", foresight.instruction or "(none)"),
        ("start", view.where),
        *(("states" if not i else "", text) for i, text in enumerate(foresight.states) if text),
        (
            "prediction",
            f"{count}{len(foresight)} frames of {width}x{height} at {foresight.fps:g} fps, "
            f"{foresight.num_conditioning_frames} given, model '{foresight.model_id}'",
        ),
        ("seed", str(foresight.seed)),
        ("time", ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in times.items())),
    ]
    if truth is not None:
        rows.append(("PSNR", _compare(foresight, truth)))
    rows.append(("wrote", ", ".join(map(str, outputs))))
    for name, text in rows:
        print(f"{name:<12} {text}")
    for note in notes:
        print(f"note: {note}")


def _compare(foresight: Foresight, truth: NDArray[np.uint8]) -> str:
    """Compare with the recording, beside what copying the last given frame would reach."""
    from aid_robot.evaluation.psnr import psnr
    from aid_robot.observation import resize_frames

    given = foresight.num_conditioning_frames
    height, width = foresight.frames.shape[2:4]
    real = resize_frames(truth, (height, width))[given:]
    samples = [psnr(clip[: len(real)], real) for clip in foresight.predicted]
    copied = psnr(foresight.frames[0, given - 1], real)
    reached = f"{samples[0]:.2f} dB"
    if len(samples) > 1:
        mean = sum(samples) / len(samples)
        reached = f"{mean:.2f} dB on average of {len(samples)} samples, best {max(samples):.2f} dB"
    return (
        f"{reached}; copying the last given frame {copied:.2f} dB "
        f"(the {len(real)} predicted frames that were recorded too, at {width}x{height}, given "
        "ones left out)"
    )
