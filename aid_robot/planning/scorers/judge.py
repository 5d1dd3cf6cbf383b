"""A vision-language model as judge, on any server that speaks OpenAI's chat protocol."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from aid_robot.clip import Foresight
from aid_robot.clip_drawing import enlarge
from aid_robot.errors import ConfigError, ScoreError, StatePredictionError
from aid_robot.model.states.vision import VisionChat
from aid_robot.planning.goals import Goal
from aid_robot.planning.scorers.scorer import FloatArray, Frames, check_scores, count_samples

_NONE = "NONE"
_QUESTION = (
    "Picture 1 shows a scene before a robot acts. {pictures}. Each strip shows imagined frames, "
    "left to right, of what may follow one of the robot's plans. The goal: {goal}. In which strip "
    "is the goal reached at the end, on the right? Look at the things, not at the arm; a thing "
    "that was only touched or moved a little is not where it should be. Answer with one letter "
    "alone, or {none} if it is reached in none."
)
_HEIGHT = 192


class _UnreadableVoteError(ScoreError):
    """An answer that names no plan, or several."""


class VLMJudge:
    """Score by the share of votes that a model gives a plan.

    Each vote shows the plans in another order under other letters, since such models favour
    places in a list; a plan that wins every time has 1. All may have 0: the model may answer none,
    or what can't be read, as which a minority of the votes may be lost. Scores hold among the plans
    of one call alone.
    The key, where the server needs one, is read from `$AID_ROBOT_ENDPOINT_KEY`.

    Args:
        base_url: "http://localhost:8000", with or without "/v1".
        model: Its name on that server.
        votes: Questions a decision, for each sample.
        frames: Frames a strip.
        seed: Of the orders.
        timeout: Seconds for a whole call, retries included.
        max_retries: How often to ask again where that may help.
    """

    is_relative = True

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        votes: int = 5,
        frames: int = 4,
        seed: int = 0,
        timeout: float = 60.0,
        max_retries: int = 3,
    ) -> None:
        if votes < 1 or frames < 2:
            raise ConfigError(f"votes={votes} and frames={frames}; expected 1 and 2 at least")
        self._chat = VisionChat(
            base_url, model, timeout=timeout, max_retries=max_retries, max_tokens=16
        )
        self.votes, self.frames, self.seed = votes, frames, seed
        self.name = f"judge ({model})"

    def __call__(self, foresights: Sequence[Foresight], goal: Goal) -> FloatArray:
        samples = count_samples(foresights)
        if len(foresights) > len(string.ascii_uppercase):
            raise ScoreError(
                f"{len(foresights)} plans are more than there are letters; expected 26 at most: "
                "let another scorer choose the best of them first"
            )
        if goal.text is None and goal.image is None:
            raise ScoreError(f"the scorer '{self.name}' needs a goal: give a text or a picture")
        rng = np.random.default_rng(self.seed)
        scores = np.zeros((len(foresights), samples))
        for sample in range(samples):
            votes: Counter[int | None] = Counter()
            unread: list[str] = []
            for _ in range(self.votes):
                order = [int(number) for number in rng.permutation(len(foresights))]
                try:
                    votes[self._vote(foresights, sample, order, goal)] += 1
                except _UnreadableVoteError as error:
                    unread.append(str(error))
            if 2 * len(unread) > self.votes:
                raise ScoreError(f"{len(unread)} of {self.votes} votes can't be read: {unread[0]}")
            scores[:, sample] = [votes[plan] / self.votes for plan in range(len(foresights))]
        return check_scores(self.name, scores, foresights)

    def _vote(
        self, foresights: Sequence[Foresight], sample: int, order: Sequence[int], goal: Goal
    ) -> int | None:
        """Ask once; returns the plan that was named."""
        letters = string.ascii_uppercase[: len(order)]
        first = foresights[order[0]]
        pictures = [_enlarged(first.frames[sample, first.num_conditioning_frames - 1])]
        said = []
        for letter, plan in zip(letters, order, strict=True):
            clip, given = foresights[plan].frames[sample], foresights[plan].num_conditioning_frames
            at = np.linspace(given, len(clip) - 1, self.frames).round().astype(int)
            pictures.append(np.concatenate([_enlarged(frame) for frame in clip[at]], axis=1))
            said.append(f"Picture {len(pictures)} is strip {letter}")
        wanted = [goal.text] if goal.text is not None else []
        if goal.image is not None:
            pictures.append(_enlarged(goal.image))
            wanted.append(f"the scene shall look like picture {len(pictures)}")
        question = _QUESTION.format(
            pictures=", ".join(said).replace(", P", ", p"),
            goal=", and ".join(wanted),
            none=_NONE,
        )
        temperature = 0.7 if self.votes > 1 else 0.0
        try:
            answer = self._chat.ask(question, pictures, temperature=temperature)
        except StatePredictionError as error:
            raise ScoreError(f"no vote from {self._chat.identity}: {error}") from error
        named = {word for word in re.findall(r"\b[A-Z]+\b", answer) if word in (*letters, _NONE)}
        if len(named) != 1:
            raise _UnreadableVoteError(
                f"{self._chat.identity} answered '{answer[:100]}'; expected one of "
                f"{', '.join(letters)} or {_NONE}: use a model that follows instructions"
            )
        letter = named.pop()
        return None if letter == _NONE else order[letters.index(letter)]


def _enlarged(picture: Frames) -> Frames:
    return np.asarray(enlarge(picture[None], max(1, round(_HEIGHT / picture.shape[0])))[0])
