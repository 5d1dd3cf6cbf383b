"""`aid-robot train`: train a stage of a small model."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train one stage of the small model on recordings, for a given time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "stage",
        choices=("vae", "prior", "aid"),
        help="the autoencoder; the video model without text; AID on top of both, frozen",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="SOURCE",
        help="recordings of any readable layout; every fifth episode is held out",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder of the run; the stage works in RUN/STAGE and resumes what it finds there",
    )
    parser.add_argument("--minutes", type=float, required=True, help="length of the stage")
    parser.add_argument(
        "--start",
        type=Path,
        metavar="MODEL",
        help="model folder to start from (default: the stage before, in RUN)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def run(args: argparse.Namespace) -> int:
    """Train, and print where the model is."""
    from aid_robot.training.run import train_stage

    model = train_stage(
        args.stage, args.sources, args.output, args.minutes, start=args.start, device=args.device
    )
    print(f"wrote {model}")
    return 0
