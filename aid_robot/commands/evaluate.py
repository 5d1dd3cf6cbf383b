"""`aid-robot eval`: judge predictors on recorded episodes, compare two runs, draw the report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aid_robot.errors import ConfigError

if TYPE_CHECKING:
    from aid_robot.evaluation.metrics.objects import Camera
    from aid_robot.evaluation.protocols import EvaluationProtocol
    from aid_robot.evaluation.summary import Summary

HELP = "judge predictors on recorded episodes, with the protocol beside every figure"
_EPILOG = """
aid-robot eval run store.zarr --protocol tabletop --predictor bundled --predictor copy-last-frame
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(
        name: str, act: Callable[[argparse.Namespace], int], help: str
    ) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=help, description=help)
        sub.set_defaults(act=act)
        return sub

    _add_run(action("run", _run, "evaluate; run it again to go on after a stop"))
    _add_compare(
        action(
            "compare",
            _compare,
            "compare two evaluations of the same clips; exit status 1 after a regression",
        )
    )
    report = action("report", _report, "draw one page about one or several evaluations")
    report.add_argument("runs", nargs="+", metavar="RUN", help="folder of an evaluation")
    report.add_argument("-o", "--output", type=Path, default=Path("report.html"), metavar="FILE")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    status: int = args.act(args)
    return status


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="RECORDING", help="stores, or recordings of any layout"
    )
    parser.add_argument(
        "--protocol",
        default="bridge",
        help="bridge, ssv2, epic, ucf, tabletop, or own: the first predictor's K, N, rate and "
        "size (default: bridge)",
    )
    parser.add_argument(
        "--predictor",
        dest="predictors",
        action="append",
        metavar="[NAME=]PREDICTOR",
        help="a model, 'copy-last-frame', 'flow', 'prior:MODEL', 'aid:MODEL?off=PART,...'; may be "
        "repeated, the first is compared with the others (default: bundled, copy-last-frame)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("runs/eval"), metavar="RUN", help="folder"
    )
    parser.add_argument(
        "--metrics",
        default="psnr,motion",
        metavar="NAME,...",
        help="psnr, ssim, lpips, motion, latent_l2, pic, fvd, kvd, fid-ID, fvd-ID "
        "(default: psnr,motion)",
    )
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="judge at this size (default: the protocol's)"
    )
    parser.add_argument(
        "--split",
        help="held-out, train, all, or a file that names episodes (default: held-out)",
    )
    parser.add_argument("--clips", type=int, metavar="N", help="at most so many clips")
    parser.add_argument("--samples", type=int, metavar="N", help="futures predicted of each clip")
    parser.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change another field of the protocol, such as clips_per_episode=2 or seed=1",
    )
    parser.add_argument(
        "--fps", type=float, help="rate of recordings that don't say it, or say it wrongly"
    )
    asked = parser.add_argument_group("does it follow the instruction?")
    asked.add_argument(
        "--counterfactuals",
        choices=("first", "all", "none"),
        default="first",
        help="which predictors are asked again under other instructions (default: first)",
    )
    asked.add_argument(
        "--scales",
        type=_numbers,
        default=(),
        metavar="S,...",
        help="text guidance scales that they are asked with, too",
    )
    sampling = parser.add_argument_group("sampling (defaults: the models' own)")
    sampling.add_argument("--steps", type=int)
    sampling.add_argument("--text-guidance-scale", type=float, metavar="S")
    sampling.add_argument("--image-guidance-scale", type=float, metavar="S")
    sampling.add_argument("--still-threshold", type=float, metavar="T")
    machine = parser.add_argument_group("where")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    machine.add_argument(
        "--devices", type=int, default=1, metavar="N", help="processes, a GPU each if there are any"
    )
    machine.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster, or 'local'")
    machine.add_argument("--batch", type=int, default=4, help="clips in a call (default: 4)")
    parser.add_argument(
        "--force", action="store_true", help="measure FVD and the like of too few clips, too"
    )


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="folder of the evaluation to hold against")
    parser.add_argument("second", metavar="B", help="folder of the evaluation to judge")
    parser.add_argument("--metric", default="psnr")
    parser.add_argument(
        "--bound",
        type=float,
        default=0.0,
        help="how much worse B may be, in the metric's unit (default: 0)",
    )
    parser.add_argument(
        "--predictor", help="of both evaluations (default: the first of each)", metavar="NAME"
    )
    parser.add_argument("--condition", default="true", help="true, paraphrase, shuffled, empty")
    parser.add_argument(
        "--strict", action="store_true", help="exit status 1 also where clips are too few to tell"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    from aid_robot.evaluation.clips import Source

    predictors = _named(args.predictors or ["bundled", "copy-last-frame"])
    protocol = _protocol(args, next(iter(predictors.values())))
    asked = {"first": None, "all": tuple(predictors), "none": ()}[args.counterfactuals]
    names = ("steps", "text_guidance_scale", "image_guidance_scale", "still_threshold")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}

    from aid_robot.commands import quiet_libraries
    from aid_robot.evaluation.run import evaluate

    if "debug" not in args:
        quiet_libraries()
    summary = evaluate(
        [Source(path, fps=args.fps) for path in args.sources],
        predictors,
        protocol,
        args.output,
        metrics=[name.strip() for name in args.metrics.split(",") if name.strip()],
        asked=asked,
        scales=args.scales,
        options=options,
        batch=args.batch,
        camera=_camera(protocol),
        device=args.device,
        devices=args.devices,
        ray=args.ray,
        force=args.force,
    )
    print(table(summary))
    print(f"wrote {args.output / 'results.json'} and {args.output / 'report.html'}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from aid_robot.evaluation.compare import compare
    from aid_robot.evaluation.results import RunFolder

    found = compare(
        RunFolder.open(args.first),
        RunFolder.open(args.second),
        args.metric,
        args.bound,
        predictors=(args.predictor, args.predictor),
        condition=args.condition,
    )
    print(json.dumps(found.to_json(), indent=1) if args.json else found)
    failed = found.outcome == "regression" or (args.strict and found.outcome == "undecided")
    return 1 if failed else 0


def _report(args: argparse.Namespace) -> int:
    from aid_robot.evaluation.report import write_report
    from aid_robot.evaluation.results import RunFolder

    write_report([RunFolder.open(path) for path in args.runs], args.output)
    print(f"wrote {args.output}")
    return 0


def table(summary: Summary) -> str:
    """Show the blocks, and the main figures below them."""
    lines = []
    for number, block in enumerate(summary.blocks.values()):
        rows = block.rows() if not number else [r for r in block.rows() if r[0] in _OWN]
        lines += [f"{name:<11} {text}" for name, text in rows]
    for subset in ("all", "moving"):
        figures = [
            f
            for f in summary.figures
            if f.subset == subset and f.frame is None and f.value == f.value
        ]
        if figures:
            lines += ["", f"{subset} clips ({max(f.clips for f in figures)}), 95 % intervals"]
        for figure in figures:
            name = figure.block.predictor.name
            told = "" if figure.condition == "true" else f" ({figure.condition})"
            against = f" - {figure.minus}" if figure.minus else ""
            lines.append(f"  {figure.metric:<24} {name + told + against:<44} {figure}")
    lines += [f"note: {note}" for note in summary.notes]
    lines += [f"unreadable: {name}: {why}" for name, why in summary.errors.items()]
    return "\n".join(lines)


_OWN = ("predictor", "sampling")


def _protocol(args: argparse.Namespace, first: str) -> EvaluationProtocol:
    from aid_robot.evaluation.protocols import get_protocol

    changes: dict[str, Any] = dict(_assignment(text) for text in args.assignments)
    for name in ("size", "split", "clips", "samples"):
        if getattr(args, name) is not None:
            changes[name] = getattr(args, name)
    protocol = _own(first) if args.protocol == "own" else get_protocol(args.protocol)
    return protocol.replace(**changes)


def _own(spec: str) -> EvaluationProtocol:
    """Take K, N, rate and size from a model."""
    from aid_robot.evaluation.predictors import model_name
    from aid_robot.evaluation.protocols import EvaluationProtocol
    from aid_robot.hub import resolve
    from aid_robot.model.checkpoint import load_config

    name = model_name(spec)
    if not name:
        raise ConfigError(f"'{spec}' has no frames of its own: name a protocol, or a model first")
    config = load_config(resolve(name))
    return EvaluationProtocol(
        "own",
        num_given=config.num_conditioning_frames,
        num_frames=config.num_frames,
        fps=config.fps,
        size=(config.height, config.width),
    )


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"'{text}' sets nothing; expected KEY=VALUE, as seed=1")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return name, tuple(parsed) if isinstance(parsed, list) else parsed


def _camera(protocol: EvaluationProtocol) -> Camera | None:
    """Give the camera of the simulated table, for episodes that say what lies on theirs."""
    if protocol.camera not in ("default", "image_0"):
        return None
    from aid_robot.envs.tabletop.view import CAMERA, FOVY, RIGHT, UP
    from aid_robot.evaluation.metrics.objects import Camera

    position, right, up = (tuple(map(float, axis)) for axis in (CAMERA, RIGHT, UP))
    return Camera(position, right, up, FOVY)


def _named(specs: list[str]) -> dict[str, str]:
    """Read NAME=PREDICTOR; without a name, a predictor is called by what it is."""
    named: dict[str, str] = {}
    for text in specs:
        # What switches parts off has an = of its own, after a "?".
        name, equals, spec = text.partition("=")
        if not equals or "?" in name or "/" in name:
            name = spec = text
        if name in named:
            raise ConfigError(f"two predictors are called '{name}': give one another NAME=")
        named[name] = spec
    return named


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    try:
        return int(height), int(width or height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; expected one as 64x64") from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' are no numbers; write 0,1.5,3") from None
