"""The command line: `aid-robot predict | ingest | train | eval | export | bench | ...`."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TextIO

from tqdm import tqdm

from aid_robot import __version__
from aid_robot.commands import (
    bench,
    calibrate,
    episodes,
    evaluate,
    export,
    info,
    ingest,
    plan,
    predict,
    simulate,
    train,
    train_success,
)
from aid_robot.errors import AIDRobotError


class Command(Protocol):
    """What a module of `aid_robot.commands` has."""

    @property
    def HELP(self) -> str:
        """A line for the list of commands."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it, and return the exit status."""


COMMANDS: Mapping[str, Command] = {
    "predict": predict,
    "plan": plan,
    "ingest": ingest,
    "episodes": episodes,
    "simulate": simulate,
    "train": train,
    "train-success": train_success,
    "calibrate": calibrate,
    "eval": evaluate,
    "export": export,
    "bench": bench,
    "info": info,
}

# So many warnings of one line of code are printed, as of texts that are too long.
_ALIKE = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run `aid-robot`; returns 0, 2 after an error that the user can mend, 130 after Ctrl-C."""
    args = _parse(argv)
    return run_cleanly("aid-robot", lambda: int(args.run(args)), debug="debug" in args)


def run_cleanly(program: str, run: Callable[[], int], *, debug: bool = False) -> int:
    """Run a program; an error that its user can mend becomes one line, without a traceback."""

    seen: Counter[tuple[str, int]] = Counter()

    def warn(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        place = (filename, lineno)
        seen[place] += 1
        if seen[place] <= _ALIKE:
            more = " (more like this one are not shown)" if seen[place] == _ALIKE else ""
            # By tqdm, which takes care of bars that are being drawn.
            tqdm.write(f"{program}: warning: {_line(message)}{more}", file=sys.stderr)

    try:
        with warnings.catch_warnings():
            if not debug:
                warnings.showwarning = warn
            return run()
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except (AIDRobotError, OSError) as error:
        if debug:
            raise
        print(f"{program}: error: {_line(error)}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """Declare all commands and their arguments."""
    # Without a default, so that a command does not undo what was said before its name.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show tracebacks, and all that libraries print",
    )
    parser = argparse.ArgumentParser(
        prog="aid-robot",
        description="Visual foresight for robots: predict the next seconds of video from a camera "
        "frame and an instruction.",
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"aid-robot {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name, help=command.HELP, description=command.HELP, parents=[common]
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, parser=sub)
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    args, late = build_parser().parse_known_args(argv)
    takes_instruction = hasattr(args, "instruction")
    # argparse gives up on an optional argument once options stand before it.
    if takes_instruction and args.instruction is None and len(late) == 1 and late[0][:1] != "-":
        args.instruction = late.pop()
    if "plans" in args and not any(text.startswith("-") for text in late):
        args.plans, late = [*args.plans, *late], []
    if late:
        hint = "; put an instruction in quotes" if takes_instruction else ""
        args.parser.error(f"unrecognized arguments: {' '.join(late)}{hint}")
    return args


def _line(message: object) -> str:
    return " ".join(str(message).split())


if __name__ == "__main__":
    sys.exit(main())
