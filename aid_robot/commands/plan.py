"""`aid-robot plan`: rank what the robot might do by what would follow."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aid_robot.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from aid_robot.planning.decision import Decision
    from aid_robot.planning.goals import Goal
    from aid_robot.planning.plans import Plan

HELP = "rank candidate plans by foresight, and say which to carry out"
_DEFAULT_OUTPUT = Path("plan.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "input",
        metavar="OBS",
        help="an image, a video, a recording (PATH, PATH#NUMBER or PATH#ID for one of its "
        "episodes), or the number of a webcam",
    )
    parser.add_argument(
        "plans",
        nargs="*",
        metavar="PLAN",
        help='candidates, each in quotes; several steps are joined by "->"',
    )
    goal = parser.add_argument_group("the goal: one of them, or both")
    goal.add_argument("--goal", metavar="TEXT", help='such as "the carrot is on the plate"')
    goal.add_argument("--goal-image", type=Path, metavar="FILE", help="how the scene shall look")
    goal.add_argument(
        "--goal-mask", type=Path, metavar="FILE", help="an image, bright where the goal's counts"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        metavar="FILE",
        help=f".png (the imagined strips) or .json; may be given several times (default: "
        f"{_DEFAULT_OUTPUT})",
    )
    more = parser.add_argument_group("more candidates")
    more.add_argument(
        "--things", nargs="+", metavar="NAME", help="what is in the scene: propose by a template"
    )
    more.add_argument(
        "--propose", metavar="endpoint:URL#MODEL", help="ask a vision-language model for plans"
    )
    more.add_argument(
        "--limit", type=int, default=8, help="candidates that are proposed, at most (default: 8)"
    )
    _add_choice_arguments(parser)
    _add_source_arguments(parser)


def _add_choice_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scores and choice")
    group.add_argument(
        "--scorer",
        metavar="NAMES",
        help="one scorer or several with weights, such as success+0.3*agreement (default: "
        "success, with a goal image alone image:latent); a wrong name lists them",
    )
    group.add_argument("--samples", type=int, default=2, help="futures of each plan (default: 2)")
    group.add_argument(
        "--penalty", type=float, default=0.5, help="weight of the samples' spread (default: 0.5)"
    )
    group.add_argument(
        "--threshold",
        type=float,
        help="abstain where the best is below it; 0 never abstains (default: the scorer's own, if "
        "it is calibrated)",
    )
    group.add_argument(
        "--beam",
        type=_beam,
        metavar="WIDTH,DEPTH",
        help="compose plans of the candidates, of up to DEPTH, keeping the best WIDTH",
    )
    group.add_argument(
        "--clips-per-step",
        type=int,
        default=1,
        metavar="N",
        help="clips of each instruction, where skills take longer than one (default: 1)",
    )
    group.add_argument("--budget", type=float, metavar="S", help="seconds the decision may take")
    group.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="what 'aid-robot calibrate' has written for this scorer: scores become rates of "
        "success",
    )


def _add_source_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where to start, and the model")
    group.add_argument("--frame", type=int, help="of the video or episode, counted from 0")
    group.add_argument("--camera", help="of the episode (default: its fixed main view)")
    group.add_argument("--model", default="bundled", help="'bundled', a folder, or a hub id")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16")
    group.add_argument("--seed", type=int, help="same seed, same decision (default: a new one)")
    group.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")


def run(args: argparse.Namespace) -> int:
    """Decide, save, and print the ranked table; returns 0 where a plan was chosen, else 1."""
    # Errors that need no model come first: loading one can take minutes.
    from aid_robot.commands.inputs import read_goal

    outputs = _check_outputs(args.output or [_DEFAULT_OUTPUT])
    goal = read_goal(args.goal, args.goal_image, args.goal_mask)
    if goal is None:
        raise PlanError('there is no goal: give --goal "TEXT", --goal-image FILE, or both')
    if not (args.plans or args.things or args.propose):
        raise PlanError(
            f"there are no candidates: give them, as in aid-robot plan {args.input} "
            '"put the carrot on the plate" "open the drawer", or --things or --propose'
        )
    from aid_robot.planning.plans import check_plans

    plans = list(check_plans(args.plans)) if args.plans else []
    from aid_robot.commands.inputs import open_input

    source = open_input(args.input, camera=args.camera)

    from aid_robot.commands import quiet_libraries
    from aid_robot.foresight import VideoForesight
    from aid_robot.planning.choose import Beam, decide
    from aid_robot.planning.pace import Pace
    from aid_robot.planning.scorers import default_scorer, make_scorer

    if "debug" not in args:
        quiet_libraries()
    started = time.perf_counter()
    model = VideoForesight.from_pretrained(args.model, device=args.device, dtype=args.dtype)
    scorer = make_scorer(
        args.scorer or default_scorer(goal),
        model=model,
        device=args.device,
        calibration=args.calibration,
    )
    loaded = time.perf_counter() - started

    view = source.view(model.num_conditioning_frames, model.fps, args.frame)
    plans = _all_plans(plans, view.frames[-1], goal, args)
    options: dict[str, Any] = {} if args.steps is None else {"steps": args.steps}
    decision = decide(
        *(model, view.frames, plans, goal, scorer),
        num_samples=args.samples,
        penalty=args.penalty,
        threshold=args.threshold,
        beam=None if args.beam is None else Beam(*args.beam),
        clips_per_step=args.clips_per_step,
        pace=None if args.budget is None else Pace(args.budget),
        seed=args.seed,
        progress=sys.stderr.isatty(),
        **options,
    )
    for path in outputs:
        _save(decision, path)
    print(decision.table())
    stages = {"load": loaded, **decision.timings}
    print(f"start   {view.where}")
    print(f"scorer  {decision.scorer}")
    print("time    " + ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in stages.items()))
    print(f"wrote   {', '.join(map(str, outputs))}")
    for note in source.notes:
        print(f"note: {note}")
    return 0 if decision.index is not None else 1


def _check_outputs(paths: list[Path]) -> list[Path]:
    """Refuse what could not be saved, and make the folders."""
    for path in paths:
        if path.suffix.lower() not in (".png", ".json") or path.is_dir():
            raise ConfigError(
                f"cannot save a decision as '{path}': expected a file name ending in .png or .json"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
    return paths


def _all_plans(plans: list[Plan], frame: Any, goal: Goal, args: argparse.Namespace) -> list[Plan]:
    """Add what is proposed to what was given."""
    from aid_robot.planning.plans import Plan
    from aid_robot.planning.propose import Proposer, Situation, Template, make_proposer

    proposers: list[Proposer] = [] if args.things is None else [Template(args.things)]
    if args.propose is not None:
        proposers.append(make_proposer(args.propose))
    known = {str(plan).casefold(): plan for plan in plans}
    for proposer in proposers:
        for plan in map(Plan.of, proposer(Situation(frame, goal, args.limit))):
            known.setdefault(str(plan).casefold(), plan)
    return list(known.values())


def _save(decision: Decision, path: Path) -> None:
    if path.suffix.lower() == ".json":
        path.write_text(json.dumps(decision.to_json(), indent=1, ensure_ascii=False) + "\n")
        return
    from aid_robot.planning.drawing import draw_decision

    draw_decision(decision).save(path)


def _beam(text: str) -> tuple[int, int]:
    try:
        width, depth = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}'; expected WIDTH,DEPTH, such as 3,2") from None
    return width, depth
