"""Statements about a scene as text, true ones and false ones, and text as statements.

Sides are as seen from the camera behind the robot: in front of a thing is nearer to the robot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from aid_robot.envs.tabletop.goals import MOVES, SIDES, Goal, holds, is_refuted
from aid_robot.envs.tabletop.names import SURFACES, VESSELS, normalize, nouns, resolve
from aid_robot.envs.tabletop.state import SceneState
from aid_robot.errors import InstructionError

# The first wording is the canonical one.
_WORDINGS: Mapping[str, tuple[str, ...]] = {
    "on": (
        "the {0} is on the {1}",
        "the {0} is on top of the {1}",
        "the {0} lies on the {1}",
        "the {0} rests on the {1}",
    ),
    "in": (
        "the {0} is in the {1}",
        "the {0} is inside the {1}",
        "the {0} lies in the {1}",
        "the {1} has the {0} in it",
    ),
    "next_to": (
        "the {0} is next to the {1}",
        "the {0} is beside the {1}",
        "the {0} is close to the {1}",
    ),
    "left_of": (
        "the {0} is to the left of the {1}",
        "the {0} is left of the {1}",
        "the {0} is on the left of the {1}",
    ),
    "right_of": (
        "the {0} is to the right of the {1}",
        "the {0} is right of the {1}",
        "the {0} is on the right of the {1}",
    ),
    "in_front_of": ("the {0} is in front of the {1}", "the {0} stands in front of the {1}"),
    "behind": ("the {0} is behind the {1}", "the {0} stands behind the {1}"),
    "lifted": (
        "the {0} is lifted up",
        "the {0} is lifted",
        "the {0} is held up in the air",
        "the {0} is in the air",
    ),
    "held": (
        "the {0} is in the gripper",
        "the gripper holds the {0}",
        "the robot is holding the {0}",
        "the gripper is holding the {0}",
    ),
    "gripper_empty": (
        "the gripper is empty",
        "the robot holds nothing",
        "nothing is in the gripper",
    ),
    "open": ("the {0} is open", "the {0} stands open", "the {0} is pulled out"),
    "closed": ("the {0} is closed", "the {0} is shut", "the {0} is pushed in"),
    "moved_left": ("the {0} has moved to the left", "the {0} is further left than before"),
    "moved_right": ("the {0} has moved to the right", "the {0} is further right than before"),
    "moved_forward": ("the {0} has moved forward", "the {0} is further away than before"),
    "moved_back": ("the {0} has moved back", "the {0} is closer than before"),
    "unchanged": ("nothing has moved", "everything is where it was"),
}
# Tried in turn, those with the most words of their own first: "is on top of" before "is on", and
# "is in the air" before "is in".
_PATTERNS = tuple(
    (predicate, re.compile(words.replace("0", "(?P<_0>.+)").replace("1", "(?P<_1>.+)")))
    for words, predicate in sorted(
        ((normalize(w), predicate) for predicate, ws in _WORDINGS.items() for w in ws),
        key=lambda pair: -len(pair[0].replace("0", "").replace("1", "").split()),
    )
)
# A false statement is drawn from the family of the true one that it goes with.
_FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(SIDES, "side"),
    **dict.fromkeys(MOVES, "move"),
    "open": "opening",
    "closed": "opening",
    "held": "gripper",
    "gripper_empty": "gripper",
}


@dataclass(frozen=True)
class Caption:
    """A statement about a scene, and whether it is true there."""

    text: str
    goal: Goal
    true: bool

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return {"text": self.text, "goal": self.goal.to_json(), "true": self.true}


def describe_goal(goal: Goal, wording: int | np.random.Generator = 0) -> str:
    """Say a goal with its things' full names, canonically or in a chosen or random wording."""
    choices = _WORDINGS[goal.predicate]
    index = wording if isinstance(wording, int) else int(wording.integers(len(choices)))
    return choices[index % len(choices)].format(*goal.args)


def goal_paraphrases(goal: Goal, scene: SceneState | Iterable[str]) -> tuple[str, ...]:
    """Return every wording of a goal in its scene, the canonical one first."""
    names = scene.names if isinstance(scene, SceneState) else tuple(scene)
    forms = [nouns(name, names) for name in goal.args]
    fillings = [(a, b) for a in (forms or [("",)])[0] for b in (forms[1] if forms[1:] else ("",))]
    sentences = [
        wording.format(*filling) for filling in fillings for wording in _WORDINGS[goal.predicate]
    ]
    return tuple(dict.fromkeys(sentences))


def parse_goal(text: str, scene: SceneState | Iterable[str]) -> Goal:
    """Read the goal that a caption states, the inverse of all `goal_paraphrases`.

    Raises InstructionError for words it doesn't know, and for things that the scene hasn't got or
    has several of.
    """
    names = scene.names if isinstance(scene, SceneState) else tuple(scene)
    words = normalize(text)
    for predicate, pattern in _PATTERNS:
        match = pattern.fullmatch(words)
        if match is None:
            continue
        found = match.groupdict()
        args = tuple(resolve(found[key], names, text) for key in sorted(found))
        if len(set(args)) < len(args):
            raise InstructionError(f"'{text}' names '{args[0]}' twice; expected two things")
        return Goal(predicate, args)
    raise InstructionError(
        f"'{text}' is not a statement that can be judged; say it like 'the carrot is on the "
        "plate', 'the cup is next to the bowl', 'the drawer is open'"
    )


def statements(state: SceneState, before: SceneState | None = None) -> Iterator[Goal]:
    """Yield what a person may want to say of a scene, true or not.

    What has changed only where there is a state `before`.
    """
    for first, second in permutations(state.things, 2):
        pair = (first.name, second.name)
        if first.graspable and second.kind in VESSELS and second.container:
            yield Goal("in", pair)
        elif first.graspable and (second.kind in SURFACES or second.kind == "cube"):
            yield Goal("on", pair)
        if first.open is None and second.open is None:
            yield Goal("next_to", pair)
        if first.open is None:
            yield from (Goal(side, pair) for side in SIDES)
    for thing in state.things:
        if thing.open is not None:
            yield from (Goal("open", (thing.name,)), Goal("closed", (thing.name,)))
        elif thing.graspable:
            yield from (Goal("lifted", (thing.name,)), Goal("held", (thing.name,)))
            if before is not None:
                yield from (Goal(move, (thing.name,)) for move in MOVES)
    yield Goal("gripper_empty")


def captions(
    state: SceneState,
    rng: np.random.Generator,
    count: int = 8,
    before: SceneState | None = None,
    about: Goal | None = None,
) -> tuple[Caption, ...]:
    """Draw pairs of a true caption and a false one of the same kind, up to `count` in all.

    The false one differs in the thing, the place or the side, and is clearly false. So no wording
    and no thing gives away the answer. The first pair holds `about`, where that is clearly true or
    false and has a counterpart.
    """
    true: dict[str, list[Goal]] = {}
    false: dict[str, list[Goal]] = {}
    for goal in statements(state, before):
        if holds(goal, state, before):
            true.setdefault(_family(goal), []).append(goal)
        elif is_refuted(goal, state, before):
            false.setdefault(_family(goal), []).append(goal)

    drawn: list[Caption] = []
    while len(drawn) + 1 < count:
        families = [family for family in true if true[family] and false.get(family)]
        if not families:
            break
        family = families[rng.integers(len(families))]
        if about is not None and _family(about) in families:
            family = _family(about)
        right, wrong = _pair(true[family], false[family], about, rng)
        about = None
        for goal, is_true in ((right, True), (wrong, False)):
            wordings = goal_paraphrases(goal, state)
            drawn.append(Caption(wordings[rng.integers(len(wordings))], goal, is_true))
    return tuple(drawn)


def _family(goal: Goal) -> str:
    return _FAMILIES.get(goal.predicate, goal.predicate)


def _pair(
    true: list[Goal], false: list[Goal], about: Goal | None, rng: np.random.Generator
) -> tuple[Goal, Goal]:
    """Take a true goal and a false one out of a family, about one thing where there are such."""
    fixed, free = (false, true) if about in false else (true, false)
    first = about if about in fixed else fixed[rng.integers(len(fixed))]
    near = [goal for goal in free if set(goal.args) & set(first.args)] or free
    second = near[rng.integers(len(near))]
    fixed.remove(first)
    free.remove(second)
    return (first, second) if fixed is true else (second, first)
