"""The rule-based predictor: it understands Bridge's phrases and never fails on text."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import textwrap
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.errors import ConfigError, InstructionError, ObservationError
from aid_robot.model.states import (
    ParsedInstruction,
    TemplateStatePredictor,
    make_state_predictor,
    parse_instruction,
    parse_steps,
)
from aid_robot.model.states.template import template_states

FRAME = np.zeros((8, 10, 3), np.uint8)

# instruction -> verb, object, preposition, target; a fragment of its final state
PHRASES = {
    "put the carrot on the plate": ("put", "carrot", "on", "plate", "the carrot on the plate"),
    "place carrot on plate": ("place", "carrot", "on", "plate", "the carrot on the plate"),
    "Put the cheese onto the cloth.": ("put", "cheese", "onto", "cloth", "the cheese on the cloth"),
    "open the drawer": ("open", "drawer", None, None, "the drawer open"),
    "close cabinet": ("close", "cabinet", None, None, "the cabinet closed"),
    "lift the cup": ("lift", "cup", None, None, "the cup held up"),
    "pick the cup up": ("pick up", "cup", None, None, "the cup held up"),
    "pick up the cup on the table": ("pick up", "cup", "on", "table", "the cup held up"),
    "pick up closest rainbow Allen key set": (
        *("pick up", "closest rainbow Allen key set", None, None),
        "the closest rainbow Allen key set held up",
    ),
    "move the pot to the left": ("move", "pot", "to", "left", "moved to the left"),
    "move the corn to the right side of the table": (
        *("move", "corn", "to", "right side of the table"),
        "the corn moved to the right side of the table",
    ),
    "move the can to the left of the pot": (
        *("move", "can", "to the left of", "pot"),
        "the can to the left of the pot",
    ),
    "turn lever vertical to front": (
        "turn",
        "lever",
        "to",
        "front",
        "turned vertical to the front",
    ),
    "put clothes in laundry machine": (
        *("put", "clothes", "in", "laundry machine"),
        "the clothes in the laundry machine",
    ),
    "flip pot upright which is in sink": ("flip", "pot", None, None, "the pot flipped upright"),
    "stack the red block on the blue block": (
        *("stack", "red block", "on", "blue block"),
        "the red block on the blue block",
    ),
    "stack the wooden blocks": ("stack", "wooden blocks", None, None, "the wooden blocks stacked"),
    "push A next to B": ("push", "A", "next to", "B", "A next to B"),
    "take the can out of the pot": ("take", "can", "out of", "pot", "the can out of the pot"),
    "remove the lid from the pot": ("remove", "lid", "from", "pot", "the lid away from the pot"),
    "fold the cloth from left to right": (
        *("fold", "cloth", "to", "right"),
        "the cloth folded from the left to the right",
    ),
    "put cup from counter or drying rack into sink": (
        *("put", "cup", "into", "sink"),
        "the cup in the sink",
    ),
    "put the pot in the sink onto the stove": (
        *("put", "pot", "onto", "stove"),
        "the pot on the stove",
    ),
    "sweep into pile": ("sweep", None, "into", "pile", "swept into the pile"),
    "sweep the beans into a pile": ("sweep", "beans", "into", "pile", "the beans swept into"),
    "put banana in pot or pan": ("put", "banana", "in", "pot or pan", "the banana in the pot"),
    "put knife and cutting board on the table": (
        *("put", "knife and cutting board", "on", "table"),
        "the knife and cutting board on the table",
    ),
    "PUT THE CARROT ON THE PLATE!!": ("put", "carrot", "on", "plate", "the carrot on the plate"),
    "please, could you gently push the button?": ("push", "button", None, None, "button pushed"),
    "Putting something behind something": ("put", "something", "behind", "something", "behind"),
    "turn the cup over": ("turn over", "cup", None, None, "the cup turned over"),
    "put the lid on, please!": ("put", "lid", None, None, "the lid put on"),
    "turn on the stove": ("turn on", "stove", None, None, "the stove turned on"),
    "wipe the plate with the sponge": ("wipe", "plate", "with", "sponge", "the plate wiped"),
}


@pytest.mark.parametrize(("text", "expected"), PHRASES.items(), ids=PHRASES)
def test_phrase_is_parsed_and_told(text: str, expected: tuple[str | None, ...]) -> None:
    *parts, final = expected
    step = parse_instruction(text)
    assert step is not None
    assert [step.verb, step.object, step.preposition, step.target] == parts

    states = template_states(text)
    assert len(set(states)) == 4
    assert states[0].startswith("the scene before the robot moves")
    assert final is not None
    assert final in states[-1]
    for state in states[1:]:
        assert (step.object or "the object") in state


def test_scene_starts_where_the_instruction_says() -> None:
    starts = {
        "flip pot upright which is in sink": "the pot in the sink",
        "take the can out of the pot": "the can in the pot",
        "pick up the cup on the table": "the cup on the table",
        "pick up the cup from the table": "the cup at the table",
        "lift the lid off the pot": "the lid on the pot",
        "put cup from the counter into sink": "the cup at the counter",
        "put the towel that is on the rack in the sink": "the towel on the rack",
        "put the carrot on the plate": "the carrot away from the plate",
        "open the drawer": "the drawer closed",
        "close the drawer": "the drawer open",
    }
    for text, start in starts.items():
        assert start in template_states(text)[0]


def test_steps_follow_each_other() -> None:
    assert template_states("pick up the sponge and wipe plate") == [
        "the scene before the robot moves, the sponge untouched",
        "the gripper lifting the sponge",
        "the gripper wiping the plate",
        "the plate wiped, the gripper moving away",
    ]
    steps = parse_steps("put blueberry on plate and spoon in pot or pan in sink")
    assert steps == (
        ParsedInstruction("put", "blueberry", "on", "plate"),
        ParsedInstruction("put", "spoon", "in", "pot or pan in sink"),
    )


def test_pronouns_mean_the_object_before() -> None:
    assert parse_steps("open the drawer and put the purple thing in it")[1].target == "drawer"
    assert parse_steps("move the toy and put it in the vessel")[1].object == "toy"
    long = parse_steps("grasp the cup, lift it, move it to the left, then drop it into the bin.")
    assert [step.verb for step in long] == ["grasp", "lift", "move", "drop"]
    assert {step.object for step in long} == {"cup"}
    assert parse_steps("pick and place the cup on the rack")[0].object == "cup"


@pytest.mark.parametrize(
    "text", ["把胡萝卜放在盘子上", "place la carotte sur l'assiette", "reset", "."]
)
def test_other_text_is_quoted(text: str) -> None:
    assert parse_steps(text) == ()
    states = template_states(text)
    assert all(text in state for state in states)
    assert "before" in states[0]
    assert "after" in states[-1]


def _is_visible(text: str) -> bool:
    return any(unicodedata.category(character)[0] not in "ZC" for character in text)


@given(text=st.text(min_size=1).filter(_is_visible), num_states=st.integers(2, 8))
def test_any_text_gives_states(text: str, num_states: int) -> None:
    _check(text, num_states)


WORDS = [word for text in PHRASES for word in text.split()] + [
    "and",
    "then",
    "it",
    "from",
    ",",
    "{x}",
]


@given(
    words=st.lists(st.sampled_from(sorted(set(WORDS))), min_size=1, max_size=14),
    num_states=st.integers(2, 8),
)
def test_any_order_of_known_words_gives_states(words: list[str], num_states: int) -> None:
    _check(" ".join(words), num_states)


def _check(text: str, num_states: int) -> None:
    states = template_states(text, num_states)
    assert len(states) == len(set(states)) == num_states
    assert all(state.strip() == state and state for state in states)
    assert "  " not in "".join(states)
    assert states == template_states(text, num_states)


@pytest.mark.bridge
def test_recorded_instructions_are_understood(bridge_dir: Path) -> None:
    with (bridge_dir / "demos" / "index.csv").open(encoding="utf-8") as file:
        texts = [row["instruction"] for row in csv.DictReader(file)]
    for path in (bridge_dir / "irasim" / "annotation").rglob("*.json"):
        texts += json.loads(path.read_text("utf-8"))["texts"]
    assert texts
    assert [text for text in texts if not parse_steps(text)] == []


@pytest.mark.parametrize("text", ["", "  \n", "\u200b", "put \ud800"])
def test_blank_or_broken_text_is_refused(text: str) -> None:
    with pytest.raises(InstructionError, match="instruction"):
        TemplateStatePredictor()(FRAME, text)


def test_frame_is_checked_although_unused() -> None:
    # The template may be exchanged for a model that does use it.
    with pytest.raises(ObservationError, match="float32"):
        TemplateStatePredictor()(FRAME.astype(np.float32), "open the drawer")
    with pytest.raises(ObservationError, match=r"\(3, 8, 10\)"):
        TemplateStatePredictor()(np.zeros((3, 8, 10), np.uint8), "open the drawer")


def test_factory_builds_the_default_and_keeps_a_built_one() -> None:
    predictor = make_state_predictor(num_states=6)
    assert predictor.identity == "template"
    assert len(predictor(FRAME, "open the drawer")) == 6
    assert make_state_predictor(predictor) is predictor


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("templat", "did you mean 'template'"),
        ("lava:folder", "did you mean 'llava:<folder or hub id>'"),
        ("llava", "did you mean 'llava:<folder or hub id>'"),
        ("http://localhost:1/v1#m", "did you mean 'endpoint:http://localhost:1/v1#m'"),
        ("endpoint:http://localhost:1", "endpoint:http://localhost:1#<model>"),
        ("endpoint:localhost:1#m", "no server's address"),
        ("endpoint:http://localhost:x#m", "no server's address"),
        ("endpoint:http://me:secret@host#m", "AID_ROBOT_ENDPOINT_KEY"),
        ("gpt", "write one of 'template'"),
        (None, "not a state predictor"),
    ],
)
def test_unknown_spec_says_what_to_write(spec: str, advice: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_state_predictor(spec)
    assert advice in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("num_states", [1, 9, 4.0, True])
def test_number_of_states_is_checked(num_states: int) -> None:
    with pytest.raises(ConfigError, match="from 2 to 8"):
        make_state_predictor("template", num_states=num_states)


def test_template_needs_neither_torch_nor_transformers() -> None:
    # The parent package is left out, so that this speaks of the states package alone.
    program = """
        import sys, types, pathlib, aid_robot
        parent = types.ModuleType("aid_robot.model")
        parent.__path__ = [str(pathlib.Path(aid_robot.__file__).parent / "model")]
        sys.modules["aid_robot.model"] = parent
        from aid_robot.model.states import make_state_predictor
        make_state_predictor("template")
        make_state_predictor("endpoint:http://localhost:8000#model")
        assert not {"torch", "transformers"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
