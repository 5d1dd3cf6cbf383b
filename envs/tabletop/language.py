"""Instructions in Bridge's wording: tasks as text, and text as tasks.

Directions are as seen from the camera behind the robot's shoulder, which is the robot's base frame:
left is +y, right -y, forward +x (away from the robot), back -x (towards it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

import numpy as np

from aid_robot.envs.tabletop.names import SURFACES, VESSELS, kind_of, normalize, nouns, resolve
from aid_robot.envs.tabletop.state import SceneState
from aid_robot.envs.tabletop.tasks import Direction, Skill, Task
from aid_robot.errors import InstructionError

# The first wording of a skill is its canonical one. {on}, {onto} and {over} become "in", "into" and
# "inside" where the target is a vessel; {to} is a direction.
_WORDINGS: Mapping[Skill, tuple[str, ...]] = {
    "put": (
        "put {object} {on} {target}",
        "place {object} {on} {target}",
        "move {object} {onto} {target}",
        "put {object} {onto} {target}",
        "set {object} {on} {target}",
        "place {object} {over} {target}",
        "lay {object} {on} {target}",
        "pick up {object} and put it {on} {target}",
        "take {object} and place it {on} {target}",
        "move {object} and put it {on} {target}",
    ),
    "lift": (
        "lift {object}",
        "pick up {object}",
        "lift up {object}",
        "raise {object}",
        "pick {object} up",
        "lift {object} up",
        "lift {object} off the table",
        "pick up {object} from the table",
        "grab {object} and lift it",
        "grasp {object} and lift it up",
    ),
    "push": (
        "push {object} {to}",
        "slide {object} {to}",
        "move {object} {to}",
        "nudge {object} {to}",
        "shove {object} {to}",
        "shift {object} {to}",
    ),
    "stack": (
        "stack {object} on {target}",
        "stack {object} on top of {target}",
        "put {object} on top of {target}",
        "place {object} on top of {target}",
        "put {object} on {target}",
        "place {object} on {target}",
        "move {object} onto {target}",
        "set {object} on top of {target}",
        "pick up {object} and stack it on {target}",
        "take {object} and put it on top of {target}",
    ),
    "open": (
        "open {object}",
        "pull {object} open",
        "pull open {object}",
        "slide {object} open",
        "slide open {object}",
        "pull out {object}",
        "pull {object} out",
        "open up {object}",
    ),
    "close": (
        "close {object}",
        "shut {object}",
        "push {object} closed",
        "push {object} shut",
        "slide {object} closed",
        "slide {object} shut",
        "push in {object}",
        "push {object} in",
        "close up {object}",
    ),
    "move_next_to": (
        "move {object} next to {target}",
        "put {object} next to {target}",
        "place {object} next to {target}",
        "move {object} beside {target}",
        "put {object} beside {target}",
        "set {object} next to {target}",
        "place {object} close to {target}",
        "bring {object} near {target}",
        "move {object} close to {target}",
        "pick up {object} and put it next to {target}",
    ),
    "idle": (
        "do nothing",
        "stay still",
        "do not move",
        "don't move",
        "keep still",
        "remain still",
        "just wait",
        "do not touch anything",
        "stay where you are",
        "leave everything as it is",
    ),
}
_PREPOSITIONS = {"on": "in", "onto": "into", "over": "inside"}
_ON = {"on": "on", "onto": "onto", "over": "on top of"}
_DIRECTIONS: Mapping[Direction, tuple[str, ...]] = {
    "left": ("to the left", "left", "towards the left"),
    "right": ("to the right", "right", "towards the right"),
    "forward": ("forward", "forwards", "away from the robot"),
    "back": ("back", "backwards", "towards the robot"),
}

_POLITE = re.compile(
    r"^(?:(?:please|now|then|just|robot|kindly|(?:can|could|would|will) you) )+"
    r"|(?: (?:please|now|then))+$"
)
_TAKE = r"(?:pick up|pick|take|grab|grasp|lift up|lift|raise up|raise|get|hold up)"
_AND = rf"(?:(?:{_TAKE}|move) (?P<taken>.+?)(?: up)? and )?"
_PUT = r"(?:put down|put|place|set down|set|lay|move|drop|bring|transfer|position|rest|stack)"
_PLACES = r"on top of|onto|on|into|inside of|inside|in|upon|over to|to"
_BESIDE = r"next to|close to|near to|right next to|beside|alongside|near|by"
_TOWARDS: Mapping[str, Direction] = {
    normalize(words): direction
    for direction, wordings in _DIRECTIONS.items()
    for wording in wordings
    for words in (wording, wording.replace("towards", "toward"), wording.removesuffix("s"))
} | {"leftwards": "left", "rightwards": "right", "away": "forward"}
_IDLE = frozenset(normalize(wording) for wording in _WORDINGS["idle"]) | {"wait", "no op", "noop"}
# Tried in turn: what says more comes first.
_PATTERNS: tuple[tuple[Skill, str], ...] = (
    ("open", r"(?:open(?: up)?|(?:pull|slide) (?:open|out)) (?P<object>.+)"),
    ("open", r"(?:pull|slide) (?P<object>.+) (?:open|out)"),
    ("close", r"(?:(?:close|shut)(?: up)?|(?:push|slide) (?:closed|shut|in)) (?P<object>.+)"),
    ("close", r"(?:push|slide) (?P<object>.+) (?:closed|shut|in)"),
    (
        "push",
        r"(?:push|slide|move|nudge|shove|shift) (?P<object>.+?) "
        rf"(?P<direction>{'|'.join(sorted(_TOWARDS, key=len, reverse=True))})",
    ),
    (
        "move_next_to",
        rf"{_AND}(?:{_PUT}|slide|push) (?P<object>.+?) (?:down )?"
        rf"(?:{_BESIDE}) (?P<target>.+)",
    ),
    (
        "put",
        rf"{_AND}{_PUT} (?P<object>.+?) (?:down )?(?:{_PLACES}) (?P<target>.+)",
    ),
    (
        "lift",
        rf"{_AND}{_TAKE} (?P<object>.+?)"
        r"(?: up)?(?: (?:off|from|off of|from off) table| (?:in|into) air)?",
    ),
)
_COMPILED = tuple((skill, re.compile(pattern)) for skill, pattern in _PATTERNS)
_EXAMPLES = (
    "'put the carrot on the plate', 'lift the cup', 'push the can to the left', 'open the drawer'"
)


def describe(task: Task, wording: int | np.random.Generator = 0) -> str:
    """Say a task with its things' full names, canonically or in a chosen or random wording."""
    choices = _sentences(task, task.object, task.target)
    index = wording if isinstance(wording, int) else int(wording.integers(len(choices)))
    return choices[index % len(choices)].replace("[the]", "the")


def paraphrases(task: Task, scene: SceneState | Iterable[str]) -> tuple[str, ...]:
    """Return every wording of a task in its scene, the canonical one first.

    With and without articles, with other words for a kind, and without the colour where the kind
    alone is clear.
    """
    names = _names(scene)
    sentences = dict.fromkeys((describe(task),))
    for thing in nouns(task.object, names) if task.object else ("",):
        for target in nouns(task.target, names) if task.target else ("",):
            for sentence in _sentences(task, thing, target):
                sentences[sentence.replace("[the]", "the")] = None
                sentences[sentence.replace("[the] ", "")] = None
    return tuple(sentences)


def parse(text: str, scene: SceneState | Iterable[str]) -> Task:
    """Read the task that a text asks for, the things named as in the scene.

    Knows every wording of `paraphrases`, in any case, with or without articles, and many more. On
    top of a plate or a cloth things are put, on top of others they are stacked.

    Raises InstructionError for words it doesn't know, and for things that the scene hasn't got or
    has several of.
    """
    names = _names(scene)
    words = normalize(text)
    words = _POLITE.sub("", words)
    if words in _IDLE:
        return Task("idle")
    for skill, pattern in _COMPILED:
        match = pattern.fullmatch(words)
        if match is None:
            continue
        found = {key: value for key, value in match.groupdict().items() if value}
        taken = found.pop("taken", None)
        if taken is not None:
            if found["object"] != "it":
                break
            found["object"] = taken
        if any(re.search(r"\b(?:and|then)\b", phrase) for phrase in found.values()):
            break
        thing = resolve(found["object"], names, text)
        if skill == "push":
            return Task("push", thing, direction=_TOWARDS[found["direction"]])
        if "target" not in found:
            return Task(skill, thing)
        target = resolve(found["target"], names, text)
        if skill == "put" and kind_of(target) not in VESSELS | SURFACES:
            skill = "stack"
        if thing == target:
            raise InstructionError(f"'{text}' names '{thing}' twice; expected two things")
        return Task(skill, thing, target)
    if re.search(r"\b(?:and|then)\b", words):
        raise InstructionError(
            f"'{text}' asks for several things; expected one instruction: give them one after "
            "the other"
        )
    raise InstructionError(f"'{text}' is not among what the robot can do{_hint(words)}")


def _sentences(task: Task, thing: str, target: str) -> list[str]:
    """Fill in the wordings of a task, with [the] where an article may stand."""
    fields = {"object": f"[the] {thing}", "target": f"[the] {target}"}
    is_vessel = kind_of(task.target) in VESSELS
    fields |= _PREPOSITIONS if is_vessel else _ON
    directions = _DIRECTIONS.get(task.direction, ("",))
    # Direction by direction, so that the canonical one comes first, in every wording.
    return [
        wording.format(**fields, to=to.replace("the ", "[the] ")).replace(
            "the table", "[the] table"
        )
        for to in directions
        for wording in _WORDINGS[task.skill]
    ]


def _names(scene: SceneState | Iterable[str]) -> tuple[str, ...]:
    if isinstance(scene, str):
        raise TypeError("expected the names of a scene, not one text")
    return scene.names if isinstance(scene, SceneState) else tuple(scene)


def _hint(words: str) -> str:
    """Say what was probably meant, or what can be said."""
    verbs = sorted({w.split()[0] for wordings in _WORDINGS.values() for w in wordings})
    first = words.split()[0] if words else ""
    close = get_close_matches(first, verbs, n=1, cutoff=0.75) if first not in verbs else []
    meant = f" (did you mean '{close[0]}'?)" if close else ""
    return f"{meant}; say it like {_EXAMPLES}"
