"""How things are called: kinds, their synonyms, and which thing of a scene a phrase means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from aid_robot.errors import InstructionError

# Things are put in these, on all others.
VESSELS = frozenset(("bowl", "pot", "cup", "drawer"))
# Things are put on these; on top of any other thing they are stacked.
SURFACES = frozenset(("plate", "cloth"))
# Other words for a kind, as recorded instructions use them.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "cube": ("block",),
    "cup": ("mug",),
    "pot": ("pan",),
    "cloth": ("towel",),
}
# The colours that go without saying.
_NATURAL_COLORS = {"carrot": "orange", "banana": "yellow"}
_KINDS = {other: kind for kind, others in SYNONYMS.items() for other in others}
_ARTICLES = frozenset(("the", "a", "an"))
# No instruction of ours is longer, and matching takes time that grows with the text.
_MAX_CHARACTERS = 300


def kind_of(name: str) -> str:
    """Return "cube" for "red cube"."""
    return name.rpartition(" ")[2]


def nouns(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return what the thing `name` can be called among `names`, its name first.

    The colour may be left out where no other thing is of its kind.
    """
    color, _, kind = name.rpartition(" ")
    forms = [name]
    if color and sum(kind_of(other) == kind for other in names) == 1:
        forms.append(kind)
    forms += [f"{form[: -len(kind)]}{word}" for form in forms for word in SYNONYMS.get(kind, ())]
    return tuple(forms)


def normalize(text: str) -> str:
    """Return the words in lower case, without articles, punctuation and needless spaces.

    Raises InstructionError where there are none.
    """
    if not isinstance(text, str) or not text.strip():
        raise InstructionError(
            f"{text!r} is no text; expected one like 'put the carrot on the plate'"
        )
    if len(text) > _MAX_CHARACTERS:
        raise InstructionError(
            f"'{text[:40]}...' has {len(text)} characters; expected {_MAX_CHARACTERS} at most: say "
            "one thing to do"
        )
    words = re.sub(r"[^\w\s']|_", " ", text.lower().replace("’", "'")).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def resolve(phrase: str, names: Iterable[str], text: str) -> str:
    """Return the name that a normalised noun phrase means; `text` is quoted in errors.

    Raises InstructionError where it means none, or more than one.
    """
    names = tuple(names)
    if phrase in names:
        return phrase
    head, space, noun = phrase.replace("pot or pan", "pot").rpartition(" ")
    kind = _KINDS.get(noun, noun)
    plain = f"{head}{space}{kind}"
    if plain in names:
        return plain
    if head and head == _NATURAL_COLORS.get(kind) and kind in names:
        return kind
    same = [name for name in names if kind_of(name) == kind]
    if not head and len(same) == 1:
        return same[0]
    if not head and same:
        raise InstructionError(
            f"'{phrase}' in '{text}' can mean {' or '.join(same)}: say which by its colour"
        )
    known = {name: name for name in names} | {word: word for n in names for word in nouns(n, names)}
    close = same or get_close_matches(phrase, known, n=1) or get_close_matches(kind, known, n=1)
    hint = f" (did you mean {' or '.join(repr(word) for word in close)}?)" if close else ""
    raise InstructionError(
        f"the scene has no '{phrase}', which '{text}' names{hint}; it has "
        f"{', '.join(names) or 'nothing'}"
    )
