"""`aid-robot simulate`: fill a store with simulated episodes."""

from __future__ import annotations

import argparse
import sys

HELP = "make episodes of the simulated tabletop, as training data with instructions and outcomes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="STORE",
        help="episode store, a path or URL; one that was begun with the same arguments is gone on "
        "with",
    )
    parser.add_argument("--episodes", type=int, default=100, help="how many the store is to have")
    parser.add_argument("--size", type=int, default=128, help="height and width of the frames")
    parser.add_argument(
        "--frames",
        type=_span,
        default=(8, 64),
        metavar="MIN..MAX",
        help="length of an episode at 5 frames a second: short ones are held still at their end, "
        "long ones are tried again; '16..' leaves the maximum (default: 8..64)",
    )
    parser.add_argument("--preset", default="default", help="easy, default or hard")
    parser.add_argument(
        "--skills",
        type=_names,
        metavar="SKILL,...",
        help="put, lift, push, stack, open, close, move_next_to, idle (default: all, in turn)",
    )
    parser.add_argument(
        "--alternatives",
        type=int,
        default=1,
        metavar="N",
        help="different tasks from the very same start, true futures of each (default: 1)",
    )
    parser.add_argument(
        "--failures",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of deliberate failures, labelled: missed_grasp, wrong_object, wrong_target, "
        "dropped (default: 0)",
    )
    parser.add_argument(
        "--cameras",
        type=_names,
        default=("image_0",),
        metavar="CAMERA,...",
        help="image_0, image_1",
    )
    parser.add_argument(
        "--renderer", default="auto", help="auto, egl, osmesa, glfw, or rays, which needs no GL"
    )
    parser.add_argument(
        "--no-shadows", dest="shadows", action="store_false", help="draw faster and plainer"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same gives the same episodes")
    parser.add_argument(
        "--workers",
        type=int,
        help="processes, 0 to work in this one (default: as many as there are cores)",
    )


def run(args: argparse.Namespace) -> int:
    """Simulate, and print what was made."""
    from aid_robot.envs.tabletop.generate import DataConfig
    from aid_robot.envs.tabletop.simulate import simulate
    from aid_robot.envs.tabletop.tasks import SKILLS

    low, high = args.frames
    config = DataConfig(
        seed=args.seed,
        size=args.size,
        preset=args.preset,
        cameras=args.cameras,
        renderer=args.renderer,
        shadows=args.shadows,
        skills=args.skills or SKILLS,
        alternatives=args.alternatives,
        failures=args.failures,
        min_frames=low,
        max_frames=high,
    )
    summary = simulate(args.output, config, args.episodes, workers=args.workers)
    print(summary.table())
    if summary.interrupted:
        print(
            f"aid-robot: interrupted; {summary.total} episodes are safe, run the same command "
            "again to go on",
            file=sys.stderr,
        )
        return 130
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _span(text: str) -> tuple[int, int]:
    """Read "8..64", "16.." or "..32"."""
    low, dots, high = text.partition("..")
    try:
        shortest = int(low) if low else 8
        longest = int(high) if high else 64 if dots else shortest
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no span of frames; expected one as 8..64"
        ) from None
    return shortest, longest
