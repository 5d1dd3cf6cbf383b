"""States by rule, without a model: the default, and what stands in where a model fails."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

from aid_robot.model.states.instruction import ParsedInstruction, parse_steps
from aid_robot.model.states.predictor import (
    Frame,
    check_inputs,
    check_instruction,
    check_num_states,
)
from aid_robot.model.states.verbs import Motion, gerund, motion_of, participle, word_set

# Eight moments of each kind of motion. The wording avoids "is" and "are", so that it needs no
# grammatical number ("the clothes", "the cup"), and "not", which text encoders of CLIP's kind miss.
_CAPTIONS: dict[Motion, tuple[str, ...]] = {
    Motion.PLACE: (
        "the scene before the robot moves, {thing} {resting}",
        "the robot arm reaching for {thing}",
        "the gripper closing on {thing}",
        "the gripper lifting {thing}",
        "the gripper {carrying} {thing}{toward}",
        "the gripper holding {thing} above its new place",
        "the gripper letting go of {thing}",
        "{thing} {done}, the gripper empty",
    ),
    Motion.PICK: (
        "the scene before the robot moves, {thing} {resting}",
        "the robot arm reaching for {thing}",
        "the gripper around {thing}",
        "the gripper closing on {thing}",
        "the gripper lifting {thing}",
        "{thing} rising in the gripper",
        "{thing} almost fully raised in the gripper",
        "{thing} held up in the gripper",
    ),
    Motion.TAKE: (
        "the scene before the robot moves, {thing} {resting}",
        "the robot arm reaching for {thing}",
        "the gripper closing on {thing}",
        "the gripper starting to lift {thing}",
        "the gripper {doing} {thing}{phrase}",
        "{thing} leaving {target} in the gripper",
        "the gripper carrying {thing} away",
        "{thing} {done}",
    ),
    Motion.SLIDE: (
        "the scene before the robot moves, {thing} {resting}",
        "the robot arm reaching for {thing}",
        "the gripper touching {thing}",
        "the gripper starting to {do} {thing}",
        "the gripper {doing} {thing}{phrase}",
        "{thing} sliding{toward}",
        "{thing} almost {done}",
        "{thing} {done}, the gripper moving away",
    ),
    Motion.OPEN: (
        "the scene before the robot moves, {thing} closed",
        "the robot arm reaching for {thing}",
        "the gripper taking hold of {thing}",
        "the gripper starting to open {thing}",
        "the gripper opening {thing}",
        "{thing} half open",
        "{thing} almost open",
        "{thing} open, the gripper moving away",
    ),
    Motion.CLOSE: (
        "the scene before the robot moves, {thing} open",
        "the robot arm reaching for {thing}",
        "the gripper touching {thing}",
        "the gripper starting to close {thing}",
        "the gripper closing {thing}",
        "{thing} half closed",
        "{thing} almost closed",
        "{thing} closed, the gripper moving away",
    ),
    Motion.ACT: (
        "the scene before the robot moves, {thing} {resting}",
        "the robot arm reaching for {thing}",
        "the gripper touching {thing}",
        "the gripper starting to {do} {thing}",
        "the gripper {doing} {thing}{phrase}",
        "{thing} half {done}",
        "{thing} almost {done}",
        "{thing} {done}, the gripper moving away",
    ),
}
_ANY_TEXT = (
    "the scene before the task: {text}",
    "the robot arm starting to move for the task: {text}",
    "the gripper touching the first object of the task: {text}",
    "the first part of the task: {text}",
    "the robot arm in the middle of the task: {text}",
    "the last part of the task: {text}",
    "the task almost done: {text}",
    "the scene after the task: {text}",
)

# Which moments lie between the first and the last, by how many there is room for.
_BETWEEN = ((), (4,), (1, 4), (1, 2, 4), (1, 2, 4, 6), (1, 2, 3, 4, 6), (1, 2, 3, 4, 5, 6))

_SOURCES = frozenset(("out of", "off", "off of", "from", "away from"))
_GOALS = frozenset(("to", "toward", "towards", "into", "onto", "above", "over", "through", "with"))
_LEFT = {"out of": "in", "off": "on", "off of": "on", "from": "at", "away from": "at"}
_ARRIVED = {"into": "in", "onto": "on", "off of": "off", "from": "away from"}
_DIRECTIONS = word_set("left right front back top bottom side center middle")
_NO_ARTICLE = word_set(
    "it them everything something all both my your his her our its their this that these those "
    "each every any one two three four five six half place line order"
)


class TemplateStatePredictor:
    """Describe the states by rule, in less than a millisecond and from the words alone."""

    identity = "template"

    def __init__(self, *, num_states: int = 4) -> None:
        self.num_states = check_num_states(num_states)

    def __call__(self, frame: Frame, instruction: str) -> list[str]:
        check_inputs(frame, instruction)
        return template_states(instruction, self.num_states)


def template_states(instruction: str, num_states: int = 4) -> list[str]:
    """Return `num_states` different descriptions, from the start to the final result.

    Text that isn't an instruction in English is quoted in each of them.
    """
    check_instruction(instruction)
    check_num_states(num_states)
    steps = [step for step in parse_steps(instruction) if step.object or step.preposition]
    if steps:
        stories = [_story(step) for step in steps]
    else:
        text = " ".join(instruction.split())
        stories = [[caption.format(text=text) for caption in _ANY_TEXT]]

    states = [stories[0][0]]
    for story, room in zip(stories, _rooms(len(stories), num_states - 2), strict=True):
        states += [story[moment] for moment in _BETWEEN[room]]
    states.append(stories[-1][-1])
    return _distinct(states)


def _rooms(num_stories: int, num_between: int) -> list[int]:
    """Share the states between first and last out evenly among the steps."""
    bounds = [step * num_between // num_stories for step in range(num_stories + 1)]
    return [end - start for start, end in pairwise(bounds)]


def _distinct(states: list[str]) -> list[str]:
    """Tell repeated descriptions apart ("pick up the cup and pick up the cup")."""
    seen: Counter[str] = Counter()
    result: list[str] = []
    for state in states:
        seen[state] += 1
        result.append(state if seen[state] == 1 else f"{state}, time {seen[state]}")
    return result


def _story(step: ParsedInstruction) -> list[str]:
    """Return the eight moments of one step."""
    motion = _motion(step)
    thing = _noun(step.object or "object")
    target = _noun(step.target or "place")
    phrase = f" {step.preposition} {target}" if step.preposition else ""
    if step.manner:
        phrase = f" {step.manner}{phrase}"
    origin = _origin(step)
    if origin.startswith("from ") and motion in (Motion.SLIDE, Motion.ACT):
        phrase = f" {origin}{phrase}"
    if motion in (Motion.OPEN, Motion.CLOSE):
        thing += phrase
    is_goal = step.preposition is not None and step.preposition not in _SOURCES
    fields = {
        "thing": thing,
        "target": target,
        "phrase": phrase,
        "toward": f" toward {target}" if is_goal else phrase,
        "do": step.verb,
        "doing": gerund(step.verb),
        "carrying": "moving" if step.verb == "move" else "carrying",
        "done": _done(step, motion, target, phrase),
        "resting": _resting(step, motion, origin),
    }
    return [caption.format(**fields) for caption in _CAPTIONS[motion]]


def _origin(step: ParsedInstruction) -> str:
    """Return "in the sink" or "from the left", or nothing."""
    preposition, _, place = (step.origin or "").partition(" ")
    first, _, rest = place.partition(" ")
    bare = rest if rest and first.lower() in ("the", "a", "an") else place
    return f"{preposition} {_noun(bare)}" if bare else ""


def _resting(step: ParsedInstruction, motion: Motion, origin: str) -> str:
    """Say where the object is before the robot moves."""
    preposition, target = step.preposition, step.target
    if origin and not (motion is Motion.ACT and origin.startswith("from ")):
        return re.sub("^from ", "at ", origin)
    if preposition is None or target is None:
        return "untouched"
    if motion in (Motion.PICK, Motion.TAKE):
        return f"{_LEFT.get(preposition, preposition)} {_noun(target)}"
    if motion in (Motion.PLACE, Motion.SLIDE):
        elsewhere = target.lower() not in _DIRECTIONS and preposition not in _SOURCES
        return f"away from {_noun(target)}" if elsewhere else "at the starting position"
    return "untouched"


def _motion(step: ParsedInstruction) -> Motion:
    """Let the preposition decide where the verb alone doesn't: "take ... from", "take ... to"."""
    motion = motion_of(step.verb)
    if step.preposition == "from" and step.verb.startswith(("pick", "lift", "grasp", "grab")):
        return Motion.PICK
    if step.preposition in _SOURCES and motion in (Motion.PICK, Motion.TAKE, Motion.PLACE):
        return Motion.TAKE
    if motion is Motion.TAKE or (motion is Motion.PICK and step.preposition in _GOALS):
        return Motion.ACT
    return motion


def _done(step: ParsedInstruction, motion: Motion, target: str, phrase: str) -> str:
    """Say the result: "on the plate", "moved to the left", "turned upright"."""
    moved = motion in (Motion.PLACE, Motion.TAKE, Motion.SLIDE)
    preposition = step.preposition
    if moved and preposition and preposition not in ("to", "toward", "towards", "with", "through"):
        result = f"{_ARRIVED.get(preposition, preposition)} {target}"
        return f"{result}, {step.manner}" if step.manner else result
    return f"{participle(step.verb)}{phrase}"


def _noun(phrase: str) -> str:
    """Put "the" before a noun phrase that has no word in its place."""
    is_name = len(phrase) == 1 or phrase.split()[0].lower() in _NO_ARTICLE
    return phrase if is_name else f"the {phrase}"
