"""How good a success classifier is on scenes it hasn't seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from aid_robot.planning.calibration import auroc, auroc_interval, calibration_error
from aid_robot.planning.success.examples import Examples, Order
from aid_robot.planning.success.model import SuccessModel

# Questions about a pair of moments, of each kind.
_EACH = 6


def measure(model: SuccessModel, examples: Examples, seed: int = 0) -> dict[str, Any]:
    """Judge a classifier: AUROC with intervals over scenes, calibration, and choices.

    Returns:
        "text": AUROC over questions whose answer is true, of which half has come about, against
        false ones; "families" of statements and instructions; "choice": how often the episode that
        was asked for scores best among those from the same start; "picture": the same for goals
        given as a picture. Where ends were imagined, "imagined" has the same of these alone: what a
        planner sees, with what truly came about; no episode runs backwards there or stands still.
        None where nothing could be asked.
    """
    everything = range(len(examples))
    found = _measure(model, examples, everything, examples.frames[:, -1], seed, get_args(Order))
    if examples.imagined is not None and examples.is_imagined is not None:
        rows = np.flatnonzero(examples.is_imagined).tolist()
        last = examples.imagined[:, -1]
        found["imagined"] = _measure(model, examples, rows, last, seed, ("done",))
    return found


def _measure(
    model: SuccessModel,
    examples: Examples,
    rows: Sequence[int],
    last_frames: NDArray[np.uint8],
    seed: int,
    orders: Sequence[Order],
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    scores: list[float] = []
    labels: list[bool] = []
    scenes: list[str] = []
    families: list[str] = []
    for index in rows:
        for pair in examples.pairs[index]:
            if pair.order not in orders:
                continue
            asked = [
                questions[i]
                for wanted in (True, False)
                for questions in [[q for q in pair.questions if q.true == wanted]]
                for i in rng.permutation(len(questions))[:_EACH]
            ]
            if not asked:
                continue
            start, end = examples.frames[index, 0], last_frames[index]
            first, last = {"done": (start, end), "still": (start, start), "reversed": (end, start)}[
                pair.order
            ]
            texts = [q.wordings()[rng.integers(len(q.wordings()))] for q in asked]
            scores += model.judge_texts(first[None], last[None], texts)[0].tolist()
            labels += [question.true for question in asked]
            families += [f"{question.family}" for question in asked]
            scenes += [examples.scenes[index]] * len(asked)
    if not scores:
        return {"text": None, "families": {}, "choice": None, "picture": None}
    found, answers = np.array(scores), np.array(labels)
    by_family = {}
    for family in sorted(set(families)):
        chosen = np.array([name == family for name in families])
        by_family[family] = {"auroc": auroc(found[chosen], answers[chosen]), "n": int(chosen.sum())}
    return {
        "text": {
            "auroc": auroc(found, answers),
            "interval": auroc_interval(found, answers, scenes, draws=300),
            "ece": calibration_error(found, answers),
            "questions": len(found),
            "scenes": len(set(scenes)),
        },
        "families": by_family,
        **_choices(model, examples, rows, last_frames),
    }


def _choices(
    model: SuccessModel, examples: Examples, rows: Sequence[int], last_frames: NDArray[np.uint8]
) -> Mapping[str, Any]:
    """Let each episode's goal choose among the episodes from the same start."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index in rows:
        groups[examples.scenes[index]].append(index)
    right: dict[str, list[float]] = {"text": [], "picture": []}
    chance: list[float] = []
    matched: list[float] = []
    reached: list[bool] = []
    names: list[str] = []
    for members in groups.values():
        first = np.stack([examples.frames[i, 0] for i in members])
        last = last_frames[members]
        for index in members:
            answers = dict(examples.matches[index])
            own = [
                question
                for pair in examples.pairs[index]
                for question in pair.questions
                if pair.order == "done" and question.changed and question.true
                if question.family.startswith(("to ", "instruction"))
            ]
            # How each member stands to what this one brought about.
            does = [dict(examples.matches[member]).get(index) for member in members]
            if len(members) < 2 or not own or not answers or None in does or all(does):
                continue
            chance.append(float(np.mean([bool(answer) for answer in does])))
            texts = [own[0].wordings()[0]]
            best = int(np.argmax(model.judge_texts(first, last, texts)[:, 0]))
            right["text"].append(float(bool(does[best])))
            # Another moment of its end, so that no picture is compared with itself.
            picture = examples.frames[index, 1]
            judged = _jittered(model, first, last, picture)
            right["picture"].append(float(bool(does[int(np.argmax(judged))])))
            matched += judged.tolist()
            reached += [bool(answer) for answer in does]
            names += [examples.scenes[index]] * len(does)
    if not chance:
        return {"choice": None, "picture": None}
    return {
        "choice": {
            "goals": len(chance), "by_chance": float(np.mean(chance)),
            **{kind: float(np.mean(values)) for kind, values in right.items()},
        },
        "picture": {
            "auroc": auroc(matched, reached),
            "interval": auroc_interval(matched, reached, names, draws=300),
        },
    }  # fmt: skip


def _jittered(
    model: SuccessModel,
    first: NDArray[np.uint8],
    last: NDArray[np.uint8],
    picture: NDArray[np.uint8],
) -> NDArray[np.float64]:
    """Compare with a picture that is a little brighter and shifted by a pixel."""
    moved = np.roll(picture, 1, axis=1)
    moved[:, 0] = picture[:, 0]
    brighter = np.clip(moved.astype(np.float32) * 1.05 + 3, 0, 255).astype(np.uint8)
    return model.judge_picture(first, last, brighter)
