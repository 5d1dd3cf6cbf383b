"""What can be told without looking: whether a plan says what the goal says."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from aid_robot.clip import Foresight
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers.scorer import FloatArray, check_scores, count_samples, goal_text

# Words that every statement has.
_EMPTY = {
    "a",
    "an",
    "and",
    "are",
    "before",
    "has",
    "have",
    "in",
    "is",
    "it",
    "of",
    "on",
    "than",
    "the",
    "to",
    "was",
}


class Words:
    """Score plans by the words that they share with the goal's text; no frame is looked at.

    The F1 score of both sets of words, as in question answering (SQuAD), without articles and the
    like. It is the baseline that foresight has to beat, and beside `success` a prior: it knows a
    goal that is some plan's own, and nothing of what a plan brings about by the way.
    """

    name = "words"

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        """Return scores (plans, samples); ScoreError where the goal has no text."""
        wanted = _words(goal_text(self.name, goal))
        found = []
        for foresight in foresights:
            said = _words(foresight.instruction)
            found.append(2 * len(wanted & said) / max(1, len(wanted) + len(said)))
        scores = np.repeat(np.array(found)[:, None], count_samples(foresights), axis=1)
        return check_scores(self.name, scores, foresights)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - _EMPTY
