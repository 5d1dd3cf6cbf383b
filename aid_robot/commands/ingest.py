"""`aid-robot ingest`: recordings of any readable layout into one episode store."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aid_robot.data.convert import Report

HELP = "convert recordings to an episode store; run it again to go on where it stopped"
_EPILOG = """
An episode is called SOURCE/EPISODE in the store, SOURCE being the name of the recording's file or
folder, or NAME where it was given as NAME=PATH. Episodes that the store has are left as they are.
One that can't be read goes into quarantine, a file beside the store, and is tried again with
--retry only. Exit status: 0, also where some were quarantined, unless --strict or no episode at
all could be read: then 1; 1 where the disk is full; 2 after a mistake; 130 after Ctrl-C, which
keeps all whole episodes.
"""
# So many quarantined episodes are shown; the file has them all.
_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="a recording: PATH, or NAME=PATH"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="STORE", help="folder or URL of the store"
    )
    parser.add_argument("--format", help="layout of the sources (default: what they look like)")
    parser.add_argument(
        "--limit", type=_count, metavar="N", help="only the first N episodes of each source"
    )
    parser.add_argument("--retry", action="store_true", help="try quarantined episodes again")
    parser.add_argument(
        "--strict", action="store_true", help="exit status 1 where episodes are quarantined"
    )
    frames = parser.add_argument_group("frames (defaults: as the store has them)")
    frames.add_argument(
        "--size",
        type=_size,
        metavar="N | HxW",
        help="squash frames to it, as Bridge does (default: keep their size)",
    )
    frames.add_argument(
        "--cameras",
        type=_cameras,
        default=(),
        metavar="NAME[,NAME...]",
        help="only these, the default one first; NEW=OLD renames one (default: all)",
    )
    frames.add_argument(
        "--fps",
        type=float,
        help="frames a second at which the sources were recorded, where they don't say it, or "
        "wrongly",
    )
    frames.add_argument(
        "--trim-static", action="store_true", help="leave out the still frames before a robot moves"
    )
    frames.add_argument("--codec", choices=("jpeg", "png"), help="png loses nothing")
    frames.add_argument("--quality", type=_quality, metavar="1-100", help="of JPEG (default: 95)")
    work = parser.add_argument_group("where the work is done")
    work.add_argument(
        "--workers",
        type=_count_or_zero,
        metavar="N",
        help="processes (default: one a core); 0 reads in this process",
    )
    work.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="read on a Ray cluster, whose machines see the sources under the same paths",
    )


def run(args: argparse.Namespace) -> int:
    """Ingest, and print what was done."""
    from aid_robot.data.convert import ingest
    from aid_robot.errors import StoreFullError

    try:
        report = ingest(
            args.sources,
            args.output,
            format=args.format,
            size=args.size,
            cameras=args.cameras,
            fps=args.fps,
            trim_static=args.trim_static,
            codec=args.codec,
            quality=args.quality,
            workers=args.workers,
            ray=args.ray,
            limit=args.limit,
            retry=args.retry,
            progress=sys.stderr.isatty(),
        )
    except StoreFullError as error:
        if "debug" in args:
            raise
        print(f"aid-robot: error: {error}", file=sys.stderr)
        return 1
    print(report)
    _show_quarantine(report)
    if report.interrupted:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
    failed = bool(report.quarantined) and (args.strict or not report.stored)
    return 1 if failed else 0


def _show_quarantine(report: Report) -> None:
    count = len(report.quarantined)
    if not count:
        return
    print(
        f"aid-robot: warning: {count} episode{'s are' if count > 1 else ' is'} in quarantine "
        f"({report.quarantine}); mend the cause and add --retry:",
        file=sys.stderr,
    )
    for entry in report.quarantined[:_SHOWN]:
        print(f"  {entry.id}: {entry.error}: {entry.message}", file=sys.stderr)
    if count > _SHOWN:
        print(f"  and {count - _SHOWN} more", file=sys.stderr)


def _size(text: str) -> tuple[int, int]:
    height, by, width = text.lower().partition("x")
    size = int(height), int(width if by else height)
    if not all(1 <= side <= 8192 for side in size):
        raise ValueError(text)
    return size


def _cameras(text: str) -> tuple[tuple[str, str], ...]:
    chosen = []
    for part in text.split(","):
        new, renamed, old = part.strip().partition("=")
        chosen.append((new, old if renamed else new))
    if not all(new and old for new, old in chosen) or len(dict(chosen)) < len(chosen):
        raise ValueError(text)
    return tuple(chosen)


def _quality(text: str) -> int:
    quality = int(text)
    if not 1 <= quality <= 100:
        raise ValueError(text)
    return quality


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def _count_or_zero(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError(text)
    return count
