"""Read the parts of a manipulation instruction: what to do, with what, and where to."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from aid_robot.model.states.verbs import GERUNDS, MOTIONS, PARTICLES, Motion, motion_of, word_set

_PREPOSITION_LIST = (
    "to the left of|to the right of|on the left of|on the right of|on top of|in front of|"
    "in back of|at the edge of|in between|next to|close to|near to|left of|right of|"
    "out of|off of|away from|inside of|outside of|in|on|into|onto|to|toward|towards|at|"
    "under|below|beneath|underneath|above|over|behind|beside|by|near|between|inside|"
    "within|outside|off|from|through|against|around|across|along|upon|with"
)
# Longest first, so that "to the left of" is not read as "to".
_PREPOSITIONS = sorted(
    (tuple(phrase.split()) for phrase in _PREPOSITION_LIST.split("|")), key=len, reverse=True
)
_MANNERS = word_set(
    "upright upside-down upside vertical vertically horizontal horizontally sideways clockwise "
    "counterclockwise counter-clockwise anticlockwise left right up down forward forwards backward "
    "backwards over around open closed shut away out in off on back flat together apart"
)
_PRONOUNS = word_set("it them this that these those")
_ARTICLES = frozenset(("the", "a", "an"))
_CONNECTORS = frozenset(("and", "then", "&", ",", ";", ".", "!", "?", ":"))
_FILLERS = word_set("please then now next finally slowly gently carefully quickly to")
_PREAMBLE = re.compile(
    r"(?:(?:please|kindly|now|first|then|next|the robot(?: arm)?|robot|"
    r"(?:can|could|would|will) you|you|should|must|will|needs? to|ha(?:s|ve) to|try to|"
    r"i (?:want|need) you to|carefully|gently|slowly|quickly|to|let'?s)\b[\s,:]*)+",
    re.IGNORECASE,
)
# Articles that English lacks: "place la carotte" is not the verb "place".
_FOREIGN = word_set("la le les el los las der das dem den il lo gli una une un uno het een")

# A text beyond this is no instruction, and reading one takes time that grows with its square.
_MAX_WORDS = 120


@dataclass(frozen=True)
class ParsedInstruction:
    """One step of an instruction; noun phrases come without article, in the user's spelling."""

    # In its base form with its particle: "put", "pick up".
    verb: str
    # None where the text names none ("sweep into pile").
    object: str | None = None
    # "on", "into", "next to", ...; "from" and "out of" where the step takes the object away.
    preposition: str | None = None
    # What follows the preposition: "plate", "right side of the table".
    target: str | None = None
    # How the object ends up or turns: "upright", "vertical".
    manner: str | None = None
    # Where the object starts, with its preposition: "in sink", "from counter".
    origin: str | None = None


def parse_instruction(text: str) -> ParsedInstruction | None:
    """Return the first step of `text`, or None where it does not begin with a known verb."""
    steps = parse_steps(text)
    return steps[0] if steps else None


def parse_steps(text: str) -> tuple[ParsedInstruction, ...]:
    """Return the steps of `text` in order, none where it does not begin with a known verb.

    "it" and "them" are replaced by the object of the step before.
    """
    text = " ".join(text.split())
    if text.isupper():
        text = text.lower()
    preamble = _PREAMBLE.match(text)
    words = _words(text[preamble.end() :] if preamble else text)
    lower = [word.lower() for word in words]
    if not 0 < len(words) <= _MAX_WORDS or not _FOREIGN.isdisjoint(lower):
        return ()
    first = _verb_at(lower, 0, gerunds=True)
    if first is None:
        return ()

    steps: list[ParsedInstruction] = []
    verb, start = first
    while True:
        end, following = _step_end(lower, start, verb, gerunds=lower[0] in GERUNDS)
        steps.append(_parse_step(verb, words[start:end]))
        if following is None:
            return _resolve(steps)
        verb, start = following


def _words(text: str) -> list[str]:
    """Split at spaces and set punctuation at a word's end apart."""
    words: list[str] = []
    for chunk in text.split():
        core = chunk.rstrip(",;.!?:")
        words += [core] if core else []
        words += chunk[len(core) :]
    while words and words[-1].lower() in _CONNECTORS | {"please"}:
        words.pop()
    return words


def _verb_at(lower: list[str], index: int, *, gerunds: bool) -> tuple[str, int] | None:
    """Return the verb at `index`, with its particle, and the index after it."""
    if index >= len(lower):
        return None
    word = lower[index]
    verb = word if word in MOTIONS else GERUNDS.get(word) if gerunds else None
    if verb is None:
        return None
    index += 1
    if index < len(lower) and lower[index] in PARTICLES.get(verb, ()):
        particle = lower[index]
        is_preposition = lower[index + 1 : index + 2] in (["of"], ["from"]) and particle != "up"
        if not is_preposition:
            return f"{verb} {particle}", index + 1
    return verb, index


def _step_end(
    lower: list[str], start: int, verb: str, *, gerunds: bool
) -> tuple[int, tuple[str, int] | None]:
    """Return where the step's words end, and the verb of the next step with the index after it."""
    for index in range(start, len(lower)):
        if lower[index] not in _CONNECTORS:
            continue
        begin = index
        while begin < len(lower) and (lower[begin] in _CONNECTORS or lower[begin] in _FILLERS):
            begin += 1
        # "cutting" of "knife and cutting board" is a verb only where the first one ends so too.
        following = _verb_at(lower, begin, gerunds=gerunds)
        if following is not None:
            return index, following
        # "put blueberry on plate and spoon in pot": the verb holds for both.
        placed = _preposition(lower[start:index])
        rest = _preposition(lower[begin:])
        if placed and rest and rest[0] > 0 and "between" not in lower[start:index]:
            return index, (verb, begin)
    return len(lower), None


def _parse_step(verb: str, words: list[str]) -> ParsedInstruction:
    words, origin = _split_relative_clause(words)
    words, source = _split_source(words)
    lower = [word.lower() for word in words]
    found = _preposition(lower)
    if found is not None:
        later = _preposition(lower[found[1] :], only=_goals(verb))
        if later is not None and lower[found[0]] in ("in", "on", "at"):
            # "put the pot in the sink onto the stove": the first phrase says where it starts.
            place = " ".join(words[found[0] : found[1] + later[0]])
            origin = origin or place
            words = words[: found[0]] + words[found[1] + later[0] :]
            found = (found[0], found[0] + later[1] - later[0])
    end = found[0] if found else len(words)
    thing, manner = words[:end], list[str]()
    while thing and thing[-1].lower() in _MANNERS:
        manner.insert(0, thing.pop())
    if manner and manner[-1].lower() in PARTICLES.get(verb, ()):
        verb = f"{verb} {manner.pop().lower()}"
    return ParsedInstruction(
        verb=verb,
        object=_phrase(thing),
        preposition=" ".join(words[found[0] : found[1]]).lower() if found else None,
        target=_phrase(words[found[1] :]) if found else None,
        manner=_phrase(manner),
        origin=origin or source,
    )


def _preposition(lower: list[str], only: frozenset[str] | None = None) -> tuple[int, int] | None:
    """Return start and end of the first preposition that something follows."""
    for index in range(len(lower)):
        for phrase in _PREPOSITIONS:
            end = index + len(phrase)
            if tuple(lower[index:end]) != phrase or end == len(lower) or lower[end] in _CONNECTORS:
                continue
            if only is None or " ".join(phrase) in only:
                return index, end
    return None


def _goals(verb: str) -> frozenset[str]:
    """Return the prepositions that can only say where the object goes."""
    moves = verb == "move" or motion_of(verb) is Motion.SLIDE
    return frozenset(("into", "onto", "to")) if moves else frozenset(("into", "onto"))


def _split_relative_clause(words: list[str]) -> tuple[list[str], str | None]:
    """Take "which is in sink" out of the words and return it as "in sink"."""
    lower = [word.lower() for word in words]
    for index in range(1, len(words) - 2):
        if lower[index] in ("which", "that") and lower[index + 1] in ("is", "are"):
            clause = lower[index + 2 :]
            first = _preposition(clause)
            if first is None or first[0] > 0:
                return words, None
            goal = _preposition(clause[first[1] :])
            end = index + 2 + (first[1] + goal[0] if goal else len(clause))
            return words[:index] + words[end:], " ".join(words[index + 2 : end])
    return words, None


def _split_source(words: list[str]) -> tuple[list[str], str | None]:
    """Take "from counter" out of the words where another phrase says where to."""
    lower = [word.lower() for word in words]
    if "from" not in lower[:-1] or "away from" in " ".join(lower):
        return words, None
    start = lower.index("from")
    goal = _preposition(lower[start + 1 :])
    if goal is not None and goal[0] > 0:
        end = start + 1 + goal[0]
    elif goal is None and _preposition(lower[:start]) is not None:
        end = len(words)
    else:
        return words, None
    return words[:start] + words[end:], " ".join(words[start:end])


def _phrase(words: list[str]) -> str | None:
    """Join words without a leading article."""
    if len(words) > 1 and words[0].lower() in _ARTICLES:
        words = words[1:]
    return re.sub(r" (?=[,;.!?:])", "", " ".join(words)) or None


def _resolve(steps: list[ParsedInstruction]) -> tuple[ParsedInstruction, ...]:
    """Give each step its object where the text leaves it to the step before or after."""
    resolved: list[ParsedInstruction] = []
    named: str | None = None
    for index, step in enumerate(steps):
        if named and step.object and step.object.lower() in _PRONOUNS:
            step = replace(step, object=named)
        if named and step.target and step.target.lower() in _PRONOUNS:
            step = replace(step, target=named)
        bare = step.object is None and step.preposition is None
        if bare and index + 1 < len(steps):  # "pick and place the cup"
            step = replace(step, object=steps[index + 1].object)
        named = step.object or named
        resolved.append(step)
    return tuple(resolved)
