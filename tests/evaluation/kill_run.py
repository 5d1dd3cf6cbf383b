"""Evaluate slowly, in a process that a test kills: main() with STORE MODEL FOLDER as arguments."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from aid_robot.evaluation.clips import ClipAt
from aid_robot.evaluation.judge import Judge, Judged
from aid_robot.evaluation.run import evaluate
from tests.evaluation.worlds import BRIEF, PROTOCOL


def main() -> None:
    store, model, folder = sys.argv[1:]
    judge = Judge.judge

    def slowly(self: Judge, task: Sequence[ClipAt]) -> list[Judged]:
        time.sleep(0.5)
        return judge(self, task)

    Judge.judge = slowly  # type: ignore[method-assign]
    evaluate([store], {"model": model}, PROTOCOL, folder, **BRIEF)
