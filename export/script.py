"""How a file of this folder runs as a script: the command line's manners in few lines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from aid_robot.errors import AIDRobotError

Declare = Callable[[argparse.ArgumentParser], None]


def run_script(
    description: str | None, declare: Declare, run: Callable[[argparse.Namespace], int]
) -> int:
    """Parse, run and return the exit status; an error that a user can mend becomes one line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    declare(parser)
    args = parser.parse_args()
    try:
        return run(args)
    except (AIDRobotError, OSError) as error:
        print(f"{Path(sys.argv[0]).stem}: error: {error}", file=sys.stderr)
        return 2
