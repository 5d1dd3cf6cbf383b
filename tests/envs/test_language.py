"""Every wording is understood as what it says, and what can't be understood is explained."""

from __future__ import annotations

import contextlib
import re
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aid_robot.envs.tabletop.feasible import feasible, obstacle
from aid_robot.envs.tabletop.language import describe, paraphrases, parse
from aid_robot.envs.tabletop.state import SceneState
from aid_robot.envs.tabletop.tasks import DIRECTIONS, FIELDS, SKILLS, Task
from aid_robot.errors import AIDRobotError, InstructionError, SimulationError
from aid_robot.model.states import parse_steps
from tests.envs.scenes import changed, kitchen, moved, scene, thing

THINGS = ("red cube", "blue cube", "yellow ball", "can", "white cup", "carrot", "banana")
PLACES = ("green plate", "purple bowl", "pot", "pink cloth", "drawer")
WORDS = re.findall(
    r"\w+", "put lift push stack open move the on in next to left cube carrot and it"
)


@st.composite
def tasks_in_scenes(draw: st.DrawFn) -> tuple[Task, tuple[str, ...]]:
    """Draw names of a scene, and any task in these names."""
    things = draw(st.lists(st.sampled_from(THINGS), min_size=2, unique=True))
    places = draw(st.lists(st.sampled_from(PLACES), min_size=1, unique=True))
    skill = draw(st.sampled_from(SKILLS))
    fields = {}
    if "object" in FIELDS[skill]:
        fields["object"] = draw(st.sampled_from(things))
    if skill in ("open", "close"):
        places.append("drawer")
        fields["object"] = "drawer"
    if "target" in FIELDS[skill]:
        # Only what is no place has things stacked on it.
        others = [name for name in things if name != fields["object"] and name != "white cup"]
        targets = {"put": places, "stack": others or ["orange cube"]}.get(skill, others + places)
        fields["target"] = draw(st.sampled_from(targets))
    if "direction" in FIELDS[skill]:
        fields["direction"] = draw(st.sampled_from(DIRECTIONS))
    names = dict.fromkeys((*things, *places, *fields.values()))
    return Task(skill, **fields), tuple(name for name in names if name not in DIRECTIONS)


@settings(deadline=None)
@given(tasks_in_scenes(), st.data())
def test_parse_inverts_every_paraphrase(
    case: tuple[Task, tuple[str, ...]], data: st.DataObject
) -> None:
    task, names = case
    wordings = paraphrases(task, names)
    assert len(wordings) >= 8
    assert wordings[0] == describe(task)
    for wording in wordings:
        assert parse(wording, names) == task, wording

    wording = data.draw(st.sampled_from(wordings))
    sloppy = wording.upper() if data.draw(st.booleans()) else wording.title().replace("'T", "'t")
    sloppy = sloppy.replace(" ", "   ") + data.draw(
        st.sampled_from([".", "!", " please.", "", " ,"])
    )
    assert parse(f"  {sloppy}", names) == task
    assert parse(f"Can you please {wording}?", names) == task


@settings(deadline=None)
@given(tasks_in_scenes())
def test_wordings_are_read_alike_by_the_template_of_states(
    case: tuple[Task, tuple[str, ...]],
) -> None:
    """What tells a motion's states must find the same verb, thing and place."""
    task, names = case
    if task.skill == "idle":
        return
    words = {"cube": "block", "cup": "mug", "pot": "pan", "cloth": "towel"}
    for wording in paraphrases(task, names):
        first, last = parse_steps(wording)[0], parse_steps(wording)[-1]
        for name, said in ((task.object, first.object), (task.target, last.target)):
            kind = name.split()[-1] if name else None
            if kind is not None:
                assert said is not None, wording
                assert said.split()[-1] in (kind, words.get(kind)), wording


def test_names_can_be_short_where_they_are_clear() -> None:
    names = ("red cube", "blue cube", "green plate", "carrot", "drawer")
    assert "put the red cube on the plate" in paraphrases(
        Task("put", "red cube", "green plate"), names
    )
    assert "put red cube on green plate" in paraphrases(
        Task("put", "red cube", "green plate"), names
    )
    assert "lift the cube" not in paraphrases(Task("lift", "red cube"), names)
    assert "lift the cube" in paraphrases(Task("lift", "red cube"), names[2:] + names[:1])
    assert parse("put the orange carrot on the plate", names) == Task(
        "put", "carrot", "green plate"
    )
    assert parse("lift the red block", names) == Task("lift", "red cube")


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("put banana in pot or pan", Task("put", "banana", "pot")),
        ("Put the banana onto the cloth.", Task("put", "banana", "pink cloth")),
        ("move the banana and put it in the pot", Task("put", "banana", "pot")),
        ("put the banana next to the pot", Task("move_next_to", "banana", "pot")),
        ("put the can on the red cube", Task("stack", "can", "red cube")),
        ("move the can to the left", Task("push", "can", direction="left")),
        ("push can toward the robot", Task("push", "can", direction="back")),
        ("slide the can away", Task("push", "can", direction="forward")),
        ("grab the can", Task("lift", "can")),
        ("push in the drawer", Task("close", "drawer")),
        ("wait", Task("idle")),
    ],
)
def test_recorded_wordings(text: str, task: Task) -> None:
    assert parse(text, ("banana", "can", "pot", "pink cloth", "red cube", "drawer")) == task


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("put the cube on the plate", "red cube or blue cube"),
        ("lift the carot", "did you mean 'carrot'"),
        ("lift the spoon", "it has red cube, blue cube, carrot"),
        ("lift the green carrot", "did you mean 'carrot'"),
        ("lift the green cube", "did you mean 'red cube' or 'blue cube'"),
        ("putt the carrot on the plate", "did you mean 'put'"),
        ("open the drawer and put the can in it", "several things"),
        ("lift the carrot and lift the can", "several things"),
        ("put the can on the can", "twice"),
        ("move the carrot", "say it like"),
        ("lift it", "no 'it'"),
        ("", "is no text"),
        (" \n", "is no text"),
        ("put " * 1000, "characters"),
        ("把胡萝卜放在盘子上", "say it like"),
    ],
)
def test_what_is_not_understood_is_explained(text: str, said: str) -> None:
    with pytest.raises(InstructionError, match=said):
        parse(text, kitchen())


@settings(deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join),
        st.text(alphabet=string.printable, max_size=60).map(lambda text: f"put the carrot {text}"),
    )
)
def test_any_text_is_a_task_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(InstructionError):
        task = parse(text, kitchen())
        assert {task.object, task.target} - {""} <= set(kitchen().names)


def test_describe_draws_all_wordings() -> None:
    rng = np.random.default_rng(0)
    task = Task("open", "drawer")
    assert describe(task) == "open the drawer"
    assert len({describe(task, rng) for _ in range(200)}) == 8


def test_tasks_check_their_fields() -> None:
    for fields in (
        {"skill": "juggle"},
        {"skill": "put", "object": "can"},
        {"skill": "lift", "object": "can", "target": "plate"},
        {"skill": "push", "object": "can", "direction": "up"},
        {"skill": "stack", "object": "can", "target": "can"},
        {"skill": "idle", "color": "red"},
    ):
        with pytest.raises(SimulationError):
            Task.from_json(fields)
    task = Task("push", "can", direction="left")
    assert Task.from_json(task.to_json()) == task


def test_feasible_tasks_are_possible_and_of_every_skill() -> None:
    state = kitchen()
    tasks = feasible(state)
    assert {task.skill for task in tasks} == set(SKILLS) - {"close"}
    assert len(set(tasks)) == len(tasks)
    for task in tasks:
        assert obstacle(task, state) is None
        assert parse(describe(task), state) == task
    assert Task("put", "carrot", "drawer") not in tasks
    assert Task("put", "carrot", "drawer") in feasible(changed(state, "drawer", open=1.0))
    assert Task("close", "drawer") in feasible(changed(state, "drawer", open=1.0))


def test_feasible_leaves_room() -> None:
    state = kitchen()
    assert Task("push", "red cube", direction="left") not in feasible(state)  # the blue cube
    assert Task("push", "blue cube", direction="left") not in feasible(state)  # out of view
    assert Task("push", "can", direction="left") in feasible(state)
    loaded = moved(state, "carrot", 0.30, 0.15, 0.01)
    assert Task("put", "can", "green plate") not in feasible(loaded)
    assert obstacle(Task("put", "can", "green plate"), loaded) is None
    stacked = moved(state, "red cube", 0.20, 0.15, 0.04)
    assert not [t for t in feasible(stacked) if t.object == "blue cube"]
    assert not [t for t in feasible(stacked) if t.object == "red cube" and t.skill == "push"]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Task("put", "carrot", "drawer"), "not open"),
        (Task("put", "carrot", "can"), "nothing can be put on"),
        (Task("close", "drawer"), "already"),
        (Task("open", "can"), "neither opens"),
        (Task("lift", "bowl"), "can't be grasped"),
        (Task("stack", "can", "carrot"), "no flat top"),
    ],
)
def test_obstacles_are_named(task: Task, said: str) -> None:
    assert said in (obstacle(task, kitchen()) or "")


def test_unknown_names_in_a_scene() -> None:
    with pytest.raises(SimulationError, match="did you mean 'carrot'"):
        obstacle(Task("lift", "carot"), kitchen())


def test_states_survive_json() -> None:
    state = moved(kitchen(), "can", 0.3, 0.0, 0.2, held="can")
    again = SceneState.from_json(state.to_json())
    assert again.to_json() == state.to_json()
    np.testing.assert_allclose(again["can"].position, state["can"].position, atol=1e-4)
    with pytest.raises(SimulationError, match="to_json"):
        SceneState.from_json({"things": []})


def test_states_refuse_what_makes_no_sense() -> None:
    with pytest.raises(AIDRobotError, match="one name"):
        scene(thing("can", 0, 0), thing("can", 1, 0))
    with pytest.raises(AIDRobotError, match="finite"):
        thing("can", np.nan, 0)
    with pytest.raises(AIDRobotError, match="no 'cup'"):
        scene(thing("can", 0, 0), held="cup")
