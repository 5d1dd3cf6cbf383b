"""The question put to a multimodal language model, and the reading of its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from aid_robot.errors import StatePredictionError

# Part of every cache key: raise it with any change to the prompt or to the reading of answers.
PROMPT_VERSION = "1"

_MAX_ANSWER_CHARS = 20_000
_MAX_STATE_CHARS = 500
_MAX_JSON_TRIES = 100

_ORDINAL = (
    "(?:initial|beginning|first|second|third|fourth|fifth|sixth|seventh|eighth|"
    "intermediate|middle|next|last|final|end)"
)
_LABEL = "(?:state|step|stage|phase)"

_BULLET = re.compile(r"[-*•–]\s+")
_NUMBERED = re.compile(
    rf"""(?:[*_`"]*) \(?
    (?: {_LABEL}\s*\#?\s*(?P<labelled>\d{{1,2}}) (?:\s*\([^)]*\))? [*_`"]* (?:\s*[-:.)–—]|$)
      | (?P<plain>\d{{1,2}}) [*_`"]* [.):\]]
    ) [*_`"]* (?:\s+|$)""",
    re.IGNORECASE | re.VERBOSE,
)
_NAMED = re.compile(
    rf"[*_]*{_ORDINAL}(?:\s+{_LABEL})?(?:\s*\d{{1,2}})?[*_]*\s*:[*_]*\s*", re.IGNORECASE
)
_PREFIX = re.compile(
    rf"(?:{_ORDINAL}\s+{_LABEL}(?:\s*\d{{1,2}})?|{_LABEL}\s*\d{{1,2}}|{_ORDINAL}(?=\s*:))"
    r"(?:\s*\([^)]*\))?[*_`]*\s*[:–—-]+[*_`]*\s*",
    re.IGNORECASE,
)
_INLINE = re.compile(rf"(?<=\s)(?=[*_]*(?:{_LABEL}\s*)?\(?\d{{1,2}}[.):][*_]*\s)", re.IGNORECASE)
_QUOTED = re.compile(r"[\"'“]([^\"“”]+)[\"'”]")
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```(?:\w+(?=[ \t]*$))?", re.MULTILINE)
_BRACKET = re.compile(r"[\[{]")


def build_prompt(instruction: str, num_states: int) -> str:
    """Return the question for one instruction; the image goes beside it."""
    instruction = " ".join(instruction.split())
    return (
        f'I have a video-generation instruction for a robot arm: "{instruction}". '
        "The image is the first frame of the video. From the given image, split the process into "
        f"{num_states} state descriptions in order of time: the first describes the initial state "
        "that the image shows, the last the final state when the instruction has been carried "
        "out. Name objects, colors and positions as seen in the image.\n"
        f"Answer with exactly {num_states} numbered lines, one short sentence each, and nothing "
        f"else:\n1. <initial state>\n...\n{num_states}. <final state>"
    )


def parse_answer(answer: str, num_states: int) -> list[str]:
    """Read `num_states` descriptions from a model's answer, whatever list it chose to write.

    Understands numbered lists, "State 1: ...", "Initial state: ...", bullets, JSON, all of them
    inside code fences and between other sentences. Raises StatePredictionError where no list of
    exactly `num_states` is there, or where all of its items are the same.
    """
    if len(answer) > _MAX_ANSWER_CHARS:
        raise _unreadable(answer, num_states, f"it has {len(answer)} characters")
    counts: list[int] = []
    for states in read_lists(answer):
        counts.append(len(states))
        if len(states) != num_states or not all(states):
            continue
        if len(set(states)) == 1:
            raise _unreadable(answer, num_states, "all of its states are the same")
        if max(map(len, states)) > _MAX_STATE_CHARS:
            raise _unreadable(answer, num_states, f"a state exceeds {_MAX_STATE_CHARS} characters")
        return states
    found = f"it lists {max(counts)}" if counts else "it holds no list"
    raise _unreadable(answer, num_states, found)


def read_lists(answer: str) -> Iterator[list[str]]:
    """Yield the lists that an answer holds, the likeliest first, their items without labels."""
    text = _FENCE.sub("", _THOUGHTS.sub("", answer))
    for items in (
        *_json_lists(text),
        *_written_lists(text),
        *_written_lists(_INLINE.sub("\n", text)),
    ):
        yield [_clean(item) for item in items]


def _unreadable(answer: str, num_states: int, reason: str) -> StatePredictionError:
    excerpt = " ".join(answer[:200].split())
    return StatePredictionError(
        f"the model's answer has no {num_states} state descriptions, {reason}: {excerpt!r}; "
        "use a model that takes images and follows instructions, or the 'template' predictor"
    )


def _json_lists(text: str) -> Iterator[list[str]]:
    """Yield every list of strings that JSON arrays and objects within `text` stand for."""
    decoder = json.JSONDecoder()
    position = 0
    for _ in range(_MAX_JSON_TRIES):
        start = _BRACKET.search(text, position)
        if start is None:
            return
        try:
            value, position = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            position = start.end()
            continue
        items = _json_items(value)
        if items:
            yield items


def _json_items(value: object) -> list[str]:
    """Read the strings of ["a"], {"states": ["a"]}, {"State 1": "a"}, [{"description": "a"}]."""
    if isinstance(value, dict):
        inner = [item for item in value.values() if isinstance(item, list)]
        return _json_items(inner[0]) if inner else _json_items(list(value.values()))
    if not isinstance(value, list):
        return []
    items: list[str] = []
    for item in value:
        if isinstance(item, dict):
            # {"state": "Initial", "description": "..."}: the description is the longest text.
            texts = [text for text in item.values() if isinstance(text, str)]
            item = max(texts, key=len, default=None)
        if not isinstance(item, str):
            return []
        items.append(item)
    return items


def _written_lists(text: str) -> list[list[str]]:
    """Return the numbered lists of `text`, then its other lists, each kind from the last one on."""
    numbered: list[list[str]] = []
    others: list[list[str]] = []
    current: list[str] | None = None  # the list that the last line belongs to
    expected = -1  # its next number; -1 within bullets
    for line in text.splitlines():
        content = line.lstrip(" \t>#")
        indented = line[:1].isspace()
        bullet = _BULLET.match(content)
        body = content[bullet.end() :] if bullet else content
        number = _NUMBERED.match(body)
        if number:
            value = int(number["labelled"] or number["plain"])
            if current is None or value != expected:
                current = []
                numbered.append(current)
            current.append(body[number.end() :])
            expected = value + 1
        elif current and (indented or not current[-1].strip("*_` ")) and content:
            # The rest of an item: a wrapped line, a nested bullet, or the text below a heading.
            current[-1] += f" {body}"
        elif bullet or _NAMED.match(content):
            if current is None or expected != -1:
                current = []
                others.append(current)
            current.append(body)
            expected = -1
        elif content and expected == -1:
            current = None  # a sentence ends bullets; numbers say themselves whether they go on
    return [*reversed(numbered), *reversed(others)]


def _clean(item: str) -> str:
    """Strip list labels, Markdown emphasis and enclosing quotes."""
    text = " ".join(item.split())
    for _ in range(2):  # '**"State 1: ..."**': marks around the label, and around the text
        text = text.strip("*_` ").rstrip(",").strip()
        quoted = _QUOTED.fullmatch(text)
        text = quoted[1].strip() if quoted else text
        prefix = _PREFIX.match(text)
        text = text[prefix.end() :] if prefix else text
    return text.strip("*_` ")
