"""Simulated episodes come whole, labelled and repeatable, and a run goes on where it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mujoco")

from aid_robot.cli import main
from aid_robot.data.store import EpisodeStore
from aid_robot.envs.tabletop import generate
from aid_robot.envs.tabletop.captions import parse_goal
from aid_robot.envs.tabletop.generate import DataConfig, wanted_skills
from aid_robot.envs.tabletop.goals import Goal, goal_of, holds, is_refuted, succeeded
from aid_robot.envs.tabletop.language import parse
from aid_robot.envs.tabletop.simulate import ATTRIBUTE, Summary, simulate
from aid_robot.envs.tabletop.state import SceneState
from aid_robot.envs.tabletop.tasks import SKILLS, Task
from aid_robot.envs.tabletop.view import see
from aid_robot.errors import AIDRobotError, ConfigError, SimulationError

# Small frames that no graphics library is needed for.
CONFIG = DataConfig(seed=3, size=32, renderer="rays", skills=("lift", "push", "put"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """Nine episodes: three starts with three alternatives each, some failures among them."""
    path = tmp_path_factory.mktemp("simulated") / "store.zarr"
    config = replace(CONFIG, alternatives=3, failures=0.4)
    summary = simulate(path, config, 9, workers=0, progress=False)
    assert (summary.total, summary.made, summary.interrupted) == (9, 9, False)
    return EpisodeStore.open(path)


def states(info: Any) -> tuple[SceneState, SceneState]:
    return SceneState.from_json(info["states"]["start"]), SceneState.from_json(
        info["states"]["end"]
    )


def same(first: EpisodeStore, second: EpisodeStore) -> bool:
    """Compare two stores to the bit."""
    if list(first.ids) != list(second.ids):
        return False
    for one, other in zip(first, second, strict=True):
        if one.info != other.info or one.instructions != other.instructions:
            return False
        for a, b in ((one.actions, other.actions), (one.state, other.state)):
            if not np.array_equal(np.asarray(a), np.asarray(b)):
                return False
        if not np.array_equal(one.frames[:], other.frames[:]):
            return False
    return True


def test_episodes_are_whole(store: EpisodeStore) -> None:
    assert list(store.ids) == [f"tabletop-3-{start}-{k}" for start in range(3) for k in range(3)]
    assert store.cameras == {"image_0": (32, 32)}
    for episode in store:
        assert CONFIG.min_frames <= len(episode) <= CONFIG.max_frames
        assert episode.fps == 5
        assert episode.actions is not None
        assert episode.state is not None
        # The last frame leads nowhere, and the robot has come to rest before it.
        assert not episode.actions[-2:, :6].any()
        assert np.abs(episode.actions[:, :3]).max() > 0.02
        assert episode.info["renderer"] == "rays"
        frames = episode.frames[:].astype(int)
        assert np.abs(frames[0] - frames[len(frames) // 2]).max() > 40


def test_instructions_say_the_task(store: EpisodeStore) -> None:
    for episode in store:
        before, _ = states(episode.info)
        task = Task.from_json(episode.info["task"])
        assert episode.instruction == episode.instructions[0]
        assert len(set(episode.instructions)) == 6
        for text in episode.instructions:
            assert parse(text, before) == task


def test_outcomes_are_true(store: EpisodeStore) -> None:
    outcomes = Counter(episode.outcome for episode in store)
    assert outcomes["success"] > 1
    assert outcomes["failure"] > 1
    for episode in store:
        task = Task.from_json(episode.info["task"])
        assert succeeded(task, *states(episode.info)) == (episode.outcome == "success")
        assert (episode.info["failure"] is None) == (episode.outcome == "success")


def test_the_gripper_goes_to_the_place_of_what_is_moved(store: EpisodeStore) -> None:
    reached = 0
    for episode in store:
        before, _ = states(episode.info)
        task, known = Task.from_json(episode.info["task"]), episode.info["places"]["image_0"]
        named = {"object": task.object, "target": task.target}
        assert set(known) == {role for role, name in named.items() if name in before.names}
        if episode.outcome == "success" and task.object in before.names:
            assert episode.state is not None
            seen = (1 + see(np.asarray(episode.state)[:, :3])) / 2
            assert np.linalg.norm(seen - known["object"], axis=1).min() < 0.15
            reached += 1
    assert reached > 1


def test_captions_are_true_of_their_frame(store: EpisodeStore) -> None:
    led = 0
    for episode in store:
        before, after = states(episode.info)
        for moment, state in (("start", before), ("end", after)):
            captions = episode.info["captions"][moment]
            assert len(captions) == 8
            assert Counter(caption["true"] for caption in captions) == {True: 4, False: 4}
            for caption in captions:
                goal = parse_goal(caption["text"], state)
                assert goal == Goal(caption["goal"][0], tuple(caption["goal"][1:]))
                judge = holds if caption["true"] else is_refuted
                assert judge(goal, state, before), caption
        goal = parse_goal(episode.info["goal"]["text"], before)
        assert goal == goal_of(Task.from_json(episode.info["task"]))
        led += episode.info["captions"]["end"][0]["goal"] == goal.to_json()
    # A goal that no other thing has a counterpart to is left out.
    assert led > 2


def test_what_went_otherwise_than_meant_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False])

    def fails_once(*args: Any) -> bool:
        return next(answers, True) and succeeded(*args)

    monkeypatch.setattr(generate, "succeeded", fails_once)
    config = replace(CONFIG, skills=("lift",))
    summary = simulate(tmp_path / "store", config, 1, workers=0, progress=False)
    count = summary.skills["lift"]
    assert (count.tried, count.done, count.successes) == (2, 1, 1)


def test_alternatives_share_their_start(store: EpisodeStore) -> None:
    for start in range(3):
        group = [store[f"tabletop-3-{start}-{place}"] for place in range(3)]
        assert {episode.scene for episode in group} == {f"tabletop-3-{start}"}
        assert {episode.info["alternatives_group"] for episode in group} == {f"tabletop-3-{start}"}
        assert len({json.dumps(episode.info["task"]) for episode in group}) == 3
        for episode in group[1:]:
            assert np.array_equal(episode.frames[0], group[0].frames[0])
            assert np.array_equal(np.asarray(episode.state)[0], np.asarray(group[0].state)[0])
            assert episode.info["states"]["start"] == group[0].info["states"]["start"]
        ends = {json.dumps(episode.info["states"]["end"]) for episode in group}
        assert len(ends) == 3


def test_skills_take_turns() -> None:
    config = DataConfig(alternatives=3)
    wanted = [wanted_skills(config, start) for start in range(80)]
    assert Counter(skills[0] for skills in wanted) == dict.fromkeys(SKILLS, 10)
    assert Counter(skills[2] for skills in wanted) == dict.fromkeys(SKILLS, 10)
    assert all(skills[0] == skills[1] != skills[2] for skills in wanted)
    assert wanted != [wanted_skills(replace(config, seed=1), start) for start in range(80)]


def test_broken_off_and_gone_on_with_is_the_same(tmp_path: Path) -> None:
    config = replace(CONFIG, alternatives=2, skills=("lift",))
    simulate(tmp_path / "whole", config, 5, workers=0, progress=False)
    first = simulate(tmp_path / "parts", config, 3, workers=0, progress=False)
    assert (first.made, first.total) == (3, 3)
    second = simulate(tmp_path / "parts", config, 5, workers=0, progress=False)
    assert (second.made, second.total) == (2, 5)
    again = simulate(tmp_path / "parts", config, 5, workers=0, progress=False)
    assert again.made == 0
    assert same(EpisodeStore.open(tmp_path / "whole"), EpisodeStore.open(tmp_path / "parts"))


def test_several_processes_make_the_same(tmp_path: Path) -> None:
    config = replace(CONFIG, skills=("lift", "push"))
    simulate(tmp_path / "one", config, 4, workers=0, progress=False)
    simulate(tmp_path / "two", config, 4, workers=2, progress=False)
    assert same(EpisodeStore.open(tmp_path / "one"), EpisodeStore.open(tmp_path / "two"))


def test_a_store_that_was_begun_otherwise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store"
    simulate(path, CONFIG, 1, workers=0, progress=False)
    for change in ({"seed": 4}, {"size": 48}, {"preset": "easy"}, {"failures": 0.1}):
        name = next(iter(change))
        with pytest.raises(ConfigError, match=f"was made with .*{name}|was made with"):
            simulate(path, replace(CONFIG, **change), 2, workers=0, progress=False)
    # "auto" stays with the renderer that the store was begun with.
    auto = replace(CONFIG, renderer="auto")
    assert simulate(path, auto, 2, workers=0, progress=False).renderer == "rays"
    assert EpisodeStore.open(path).attributes[ATTRIBUTE]["config"]["renderer"] == "rays"
    EpisodeStore.create(tmp_path / "other").close()
    with pytest.raises(ConfigError, match="not made by simulation"):
        simulate(tmp_path / "other", CONFIG, 1, workers=0, progress=False)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"skills": ("put", "juggle")}, "different ones of put, lift"),
        ({"skills": ()}, "skills are none"),
        ({"failures": 1.5}, "0 to 1"),
        ({"failures": 0.5, "skills": ("idle",)}, "can't fail"),
        ({"alternatives": 0}, "expected 1 to"),
        ({"size": 8}, "expected 16 to"),
        ({"min_frames": 20, "max_frames": 18}, "at most 18"),
        ({"cameras": ()}, "no camera"),
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DataConfig(**fields)


def test_what_can_not_be_shown_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_MAX_SCENES", 3)
    config = replace(CONFIG, skills=("idle",), alternatives=2)
    with pytest.raises(SimulationError, match="none shows idle from one start"):
        simulate(tmp_path / "store", config, 1, workers=0, progress=False)
    with pytest.raises(AIDRobotError, match="image_7"):
        simulate(tmp_path / "x", replace(CONFIG, cameras=("image_7",)), 1, workers=0)


def test_long_and_short_episodes(tmp_path: Path) -> None:
    config = replace(CONFIG, skills=("lift",), min_frames=30, max_frames=32)
    simulate(tmp_path / "store", config, 2, workers=0, progress=False)
    assert EpisodeStore.open(tmp_path / "store").lengths.tolist() == [30, 30]


def test_summary_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--episodes 2 --size 32 --skills lift,push --renderer rays --workers 0 --seed 5"
    command = ["simulate", "-o", str(tmp_path / "s"), *options.split()]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()] == ["skill", "lift", "push", "2"]
    assert "drawn by rays" in table
    assert main([*command, "--size", "48"]) == 2
    assert "size" in capsys.readouterr().err
    assert Summary(total=0).table()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_keeps_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "store"
    options = "--episodes 500 --size 32 --skills lift --renderer rays --workers 1"
    command = [sys.executable, "-m", "aid_robot.cli", "simulate", "-o", str(path), *options.split()]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stderr is not None
    shown = ""
    while "2/500" not in shown and run.poll() is None:
        shown += run.stderr.read(1)
    # To the whole group, as a terminal does.
    os.killpg(run.pid, signal.SIGINT)
    rest = run.stderr.read()
    assert run.wait(60) == 130
    assert "again to go on" in rest
    assert "Traceback" not in rest
    begun = EpisodeStore.open(path)
    assert len(begun) >= 2
    assert [name for name, _ in zip(begun.ids, range(2), strict=False)] == [
        "tabletop-0-0-0",
        "tabletop-0-1-0",
    ]
    for episode in begun:
        assert len(episode.frames[:]) == len(episode)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import os, multiprocessing, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from aid_robot.envs.tabletop.workshop import _prepare as prepare\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, context, prepare, (context.Event(),))\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    run = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    child = int(run.stdout.readline())
    run.kill()
    run.wait()
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the process outlived its parent")
