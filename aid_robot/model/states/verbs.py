"""The verbs of manipulation instructions: how they inflect, and what kind of motion they name."""

from __future__ import annotations

from enum import Enum


def word_set(words: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(words.split())


class Motion(Enum):
    """The kinds of motion that are told differently."""

    PLACE = "grasp, carry and release"
    PICK = "grasp and hold up"
    TAKE = "grasp and take away from somewhere"
    SLIDE = "move in contact"
    OPEN = "open"
    CLOSE = "close"
    ACT = "any other"


_PLACE = """put place set lay drop insert store return bring load move transfer hang deposit
position rest throw toss give deliver relocate carry stack"""
_PICK = "pick lift grasp grab hold raise take get fetch retrieve collect"
_TAKE = "remove extract unload"
_SLIDE = "push pull slide drag nudge shove shift"
_OPEN = "open"
_CLOSE = "close shut"
_ACT = """turn rotate twist flip tilt tip fold unfold wipe clean wash rinse scrub sweep stir mix
pour press tap touch poke squeeze shake hit cut slice peel spin roll wrap unwrap cover uncover
plug unplug switch zip unzip crush empty fill straighten stand rearrange arrange align sort
spread scatter unstack screw unscrew reach swap exchange attach detach connect disconnect mop
dust dry water topple knock reorient adjust spill dump scoop gather point hook unhook lock
unlock light feed dip lower bend stretch crumple tear separate split center approach scrape
strike hammer"""

MOTIONS: dict[str, Motion] = {
    verb: motion
    for motion, verbs in (
        (Motion.PLACE, _PLACE),
        (Motion.PICK, _PICK),
        (Motion.TAKE, _TAKE),
        (Motion.SLIDE, _SLIDE),
        (Motion.OPEN, _OPEN),
        (Motion.CLOSE, _CLOSE),
        (Motion.ACT, _ACT),
    )
    for verb in verbs.split()
}

# Particles that belong to the verb, beside it ("pick up the cup") or after the object.
PARTICLES: dict[str, frozenset[str]] = {
    verb: word_set(particles)
    for verb, particles in {
        "pick": "up",
        "lift": "up off",
        "put": "down away back",
        "set": "down",
        "lay": "down",
        "place": "down back",
        "take": "out off away",
        "turn": "on off over around up down",
        "switch": "on off",
        "flip": "over up",
        "knock": "over down",
        "tip": "over",
        "push": "in down over away",
        "pull": "out open back down",
        "slide": "open out shut",
        "press": "down",
        "clean": "up off",
        "sweep": "up away",
        "wipe": "up down off",
        "open": "up",
        "close": "up",
        "stand": "up",
        "fold": "up",
        "roll": "up out",
        "cover": "up",
        "scoop": "up out",
        "pour": "out",
    }.items()
}

_PHRASAL_MOTIONS = {
    "pull open": Motion.OPEN,
    "slide open": Motion.OPEN,
    "slide shut": Motion.CLOSE,
    "take out": Motion.ACT,
    "take off": Motion.ACT,
    "take away": Motion.ACT,
}

_DOUBLED = word_set(
    "put set drop flip grab shut cut tip spin wrap unwrap plug unplug tap hit zip unzip scrub stir "
    "mop swap get split dip"
)
_IRREGULAR_PARTICIPLES = {
    "bend": "bent",
    "bring": "brought",
    "cut": "cut",
    "feed": "fed",
    "get": "fetched",
    "give": "given",
    "hang": "hung",
    "hit": "hit",
    "hold": "held",
    "lay": "laid",
    "light": "lit",
    "put": "put",
    "set": "set",
    "shake": "shaken",
    "shut": "shut",
    "slide": "slid",
    "spin": "spun",
    "split": "split",
    "spread": "spread",
    "stand": "stood",
    "strike": "struck",
    "sweep": "swept",
    "take": "taken",
    "tear": "torn",
    "throw": "thrown",
}


def motion_of(verb: str) -> Motion:
    """Return the kind of motion of a verb of `MOTIONS`, with or without its particle."""
    return _PHRASAL_MOTIONS.get(verb, MOTIONS[verb.split()[0]])


def gerund(verb: str) -> str:
    """Return "picking up" for "pick up"."""
    first, _, particle = verb.partition(" ")
    if first in _DOUBLED:
        form = f"{first}{first[-1]}ing"
    elif first.endswith("e"):
        form = f"{first[:-1]}ing"
    else:
        form = f"{first}ing"
    return f"{form} {particle}".rstrip()


def participle(verb: str) -> str:
    """Return "picked up" for "pick up"."""
    first, _, particle = verb.partition(" ")
    if first in _IRREGULAR_PARTICIPLES:
        form = _IRREGULAR_PARTICIPLES[first]
    elif first in _DOUBLED:
        form = f"{first}{first[-1]}ed"
    elif first.endswith("e"):
        form = f"{first}d"
    elif first.endswith("y") and first[-2] not in "aeiou":
        form = f"{first[:-1]}ied"
    else:
        form = f"{first}ed"
    return f"{form} {particle}".rstrip()


GERUNDS: dict[str, str] = {gerund(verb): verb for verb in MOTIONS}
