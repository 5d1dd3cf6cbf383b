"""The reading of a language model's answer, in the formats that such models choose."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aid_robot.errors import StatePredictionError
from aid_robot.model.states.prompt import build_prompt, parse_answer

STATES = [
    "The carrot lies on the table.",
    "The gripper closes on the carrot.",
    "The arm carries the carrot, 3.5 cm above the table.",
    "The carrot is on the plate.",
]

Format = Callable[[list[str]], str]


def _lines(marker: Callable[[int], str]) -> Format:
    return lambda states: "\n".join(f"{marker(i)}{state}" for i, state in enumerate(states, 1))


FORMATS: dict[str, Format] = {
    "numbers": _lines(lambda i: f"{i}. "),
    "numbers in parentheses": _lines(lambda i: f"({i}) "),
    "numbers with one parenthesis": _lines(lambda i: f"  {i}) "),
    "numbers with colon": _lines(lambda i: f"{i}: "),
    "numbers from zero": _lines(lambda i: f"{i - 1}. "),
    "numbers, bold": _lines(lambda i: f"**{i}.** "),
    "numbers far apart": lambda states: "\n\n".join(f"{i}. {s}" for i, s in enumerate(states, 1)),
    "state": _lines(lambda i: f"State {i}: "),
    "state, bold": _lines(lambda i: f"**State {i}:** "),
    "state, bold number": _lines(lambda i: f"**State {i}**: "),
    "state, dash": _lines(lambda i: f"Step {i} - "),
    "state with a remark": _lines(lambda i: f"State {i} (stage): "),
    "state in bullets": _lines(lambda i: f"- State {i}: "),
    "state in numbers": _lines(lambda i: f"{i}. **State {i}**: "),
    "headings": _lines(lambda i: f"### State {i}:\n"),
    "headings without colon": _lines(lambda i: f"### State {i}\n\n"),
    "bullets": _lines(lambda i: "- "),
    "stars": _lines(lambda i: "* "),
    "dots": _lines(lambda i: "• "),
    "one line": lambda states: " ".join(f"{i}. {state}" for i, state in enumerate(states, 1)),
    "one line of states": lambda states: " ".join(
        f"State {i}: {state}" for i, state in enumerate(states, 1)
    ),
    "quoted": lambda states: "\n".join(f'{i}. "{state}"' for i, state in enumerate(states, 1)),
    "JSON array": json.dumps,
    "JSON array, indented": lambda states: json.dumps(states, indent=2),
    "JSON object": lambda states: json.dumps({"instruction": "x", "states": states}),
    "JSON object by state": lambda states: json.dumps(
        {f"State {i}": state for i, state in enumerate(states, 1)}
    ),
    "JSON objects": lambda states: json.dumps(
        [{"state": i, "description": state} for i, state in enumerate(states, 1)]
    ),
}

word = st.sampled_from(
    ["carrot", "plate", "robot", "arm", "über", "on", "red", "3.5", "cm", "杯子"]
)
description = st.lists(word, min_size=2, max_size=8).map(lambda words: f"the {' '.join(words)}")
chatter_before = st.sampled_from(
    ["", "Sure! Here are the states:\n\n", "The image shows 2 cups [1].\n", "<think>1. a</think>\n"]
)
chatter_after = st.sampled_from(["", "\n", "\n\nI hope this helps!", "\nLet me know {if} it does."])


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25)
@given(
    states=st.lists(description, min_size=2, max_size=8, unique=True),
    before=chatter_before,
    after=chatter_after,
    fenced=st.booleans(),
)
def test_what_a_model_lists_is_read_back(
    name: str, states: list[str], before: str, after: str, fenced: bool
) -> None:
    body = FORMATS[name](states)
    if name.startswith("one line"):
        after = ""  # nothing would tell it from the last state
    answer = f"{before}```\n{body}\n```{after}" if fenced else f"{before}{body}{after}"
    assert parse_answer(answer, len(states)) == states


def test_named_states() -> None:
    answer = (
        f"Initial state: {STATES[0]}\nIntermediate state 1: {STATES[1]}\n"
        f"Intermediate state 2: {STATES[2]}\nFinal state: {STATES[3]}"
    )
    assert parse_answer(answer, 4) == STATES
    bullets = "\n".join(f"- {line}" for line in answer.splitlines())
    assert parse_answer(bullets, 4) == STATES


def test_remarks_between_states_are_left_out() -> None:
    answer = "\n".join(f"State {i}: {s}\nThis is clear.\n" for i, s in enumerate(STATES, 1))
    assert parse_answer(answer, 4) == STATES


def test_wrapped_lines_and_nested_bullets_belong_to_their_state() -> None:
    answer = "1. The carrot lies\n   on the table.\n2. Grasp:\n   - closed gripper\n3. b\n4. c"
    states = ["The carrot lies on the table.", "Grasp: closed gripper", "b", "c"]
    assert parse_answer(answer, 4) == states


def test_last_list_of_the_right_length_counts() -> None:
    analysis = "1. a cup\n2. a plate\n3. a table\n"
    answer = analysis + "So the states are:\n" + FORMATS["numbers"](STATES)
    assert parse_answer(answer, 4) == STATES


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "no list"),
        ("I'm sorry, I can't see an image.", "no list"),
        ("The arm moves.\nIt grasps.\nIt lifts.\nIt places.", "no list"),
        (FORMATS["numbers"](STATES[:3]), "lists 3"),
        (FORMATS["numbers"]([*STATES, "More."]), "lists 5"),
        (json.dumps(STATES[:2]), "lists 2"),
        ("[1, 2, 3, 4]", "no list"),
        ("1. a\n2.\n3. \n4. d", "4 state descriptions"),
        (FORMATS["numbers"](["The arm moves."] * 4), "the same"),
        (FORMATS["numbers"]([*STATES[:3], "x" * 501]), "501|500"),
        ("[" * 19_000, "no list"),
        ("x" * 20_001, "20001 characters"),
    ],
)
def test_other_answers_are_refused(answer: str, reason: str) -> None:
    with pytest.raises(StatePredictionError, match=reason) as raised:
        parse_answer(answer, 4)
    assert "template" in str(raised.value)
    assert len(str(raised.value)) < 600


def test_one_line_in_a_fence() -> None:
    assert parse_answer(f"```json {json.dumps(STATES)}```", 4) == STATES


@pytest.mark.parametrize(
    "piece", [" ", "\n", "*", "- ", "1. ", "1", "[", '{"a":', "```", "<think>", "state ", '"', "("]
)
def test_repetition_is_read_in_little_time(piece: str) -> None:
    start = time.perf_counter()
    with pytest.raises(StatePredictionError):
        parse_answer((piece * 20_000)[:20_000], 4)
    assert time.perf_counter() - start < 3


@given(answer=st.text(max_size=300), num_states=st.integers(2, 8))
def test_any_answer_gives_states_or_the_one_error(answer: str, num_states: int) -> None:
    try:
        states = parse_answer(answer, num_states)
    except StatePredictionError:
        return
    assert len(states) == num_states
    assert all(state.strip() for state in states)


def test_prompt_holds_instruction_and_count() -> None:
    prompt = build_prompt(" put the  carrot\non the plate ", 6)
    assert '"put the carrot on the plate"' in prompt
    assert "exactly 6 numbered lines" in prompt
