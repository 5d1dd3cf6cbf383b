"""Scripted skills do what they are named after, and fail where they are told to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from aid_robot.envs.tabletop.config import preset
from aid_robot.envs.tabletop.env import TabletopEnv
from aid_robot.envs.tabletop.feasible import feasible
from aid_robot.envs.tabletop.goals import succeeded
from aid_robot.envs.tabletop.skills import make_actions, run_skill
from aid_robot.envs.tabletop.tasks import FAILURES_OF, SKILLS, Failure, Skill, Task
from aid_robot.envs.tabletop.world import MAX_MOVE, MAX_TURN, World
from aid_robot.errors import SimulationError

# Of a clip of 16 frames at 5 Hz and what it takes to be shown at half the rate.
MOST_STEPS = 26


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def scenes(world: World, skill: Skill, seeds: range) -> Iterator[tuple[Task, np.random.Generator]]:
    """Lay out a scene a seed, with a task of the skill."""
    things = {"open": ("drawer",), "close": ("drawer",), "stack": ("blue cube",)}.get(skill, ())
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for _ in range(100):
            world.reset(preset("default"), rng, things)
            tasks = [task for task in feasible(world.scene_state()) if task.skill == skill]
            if tasks:
                yield tasks[rng.integers(len(tasks))], rng
                break


@pytest.mark.parametrize("skill", SKILLS)
def test_skill_succeeds_in_fresh_scenes(world: World, skill: Skill) -> None:
    done = []
    for task, _ in scenes(world, skill, range(4)):
        trajectory = run_skill(world, task)
        done.append(trajectory.success)
        assert len(trajectory.actions) <= MOST_STEPS
        limits = np.array([MAX_MOVE] * 3 + [MAX_TURN] * 3 + [1]) + 1e-6
        assert (np.abs(trajectory.actions) <= limits).all()
        assert (trajectory.actions[:, 6] >= 0).all()
        # What the task is not about stays where it was.
        for before in trajectory.before.things:
            if before.name not in (task.object, task.target):
                moved = trajectory.after[before.name].position - before.position
                assert np.linalg.norm(moved) < 0.03
    assert len(done) == 4
    # 98 in 100 succeed, though not the same ones with every version of MuJoCo.
    assert sum(done) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("skill", SKILLS)
def test_skill_hardly_ever_fails(world: World, skill: Skill) -> None:
    done = [run_skill(world, task).success for task, _ in scenes(world, skill, range(100, 300))]
    assert np.mean(done) >= 0.95


def test_second_skill_starts_where_the_first_has_ended(world: World) -> None:
    world.reset(preset("default"), np.random.default_rng(3), ("red cube", "blue cube", "drawer"))
    drawer = world.scene_state()["drawer"]
    tasks = [Task("open", "drawer")] if drawer.open == 0 else []
    tasks += [
        Task("put", "red cube", "drawer"),
        Task("close", "drawer"),
        Task("lift", "blue cube"),
    ]
    for task in tasks:
        assert run_skill(world, task).success, task
    after = world.scene_state()
    assert after.held == "blue cube"
    assert succeeded(Task("put", "red cube", "drawer"), after, after)  # went in with it


def test_what_is_held_is_put_down_first(world: World) -> None:
    world.reset(preset("easy"), np.random.default_rng(0), ("red cube", "blue cube"))
    assert run_skill(world, Task("lift", "red cube")).success
    assert world.scene_state().held == "red cube"
    assert run_skill(world, Task("lift", "blue cube")).success
    after = world.scene_state()
    assert after.held == "blue cube"
    assert after["red cube"].bottom == pytest.approx(0, abs=0.005)


def test_what_is_held_already_is_not_put_down(world: World) -> None:
    world.reset(preset("easy"), np.random.default_rng(1), ("red cube", "white bowl"))
    run_skill(world, Task("lift", "red cube"))
    trajectory = run_skill(world, Task("put", "red cube", "white bowl"))
    assert trajectory.success
    assert len(trajectory.actions) < 14


@pytest.mark.parametrize("seed", range(3))
def test_skill_works_from_wherever_the_arm_is(world: World, seed: int) -> None:
    rng = np.random.default_rng(seed)
    world.reset(preset("easy"), rng, ("red cube", "green plate"))
    for _ in range(4):
        world.step(np.array([*rng.uniform(-1, 1, 2) * 0.05, 0.02, *rng.uniform(-1, 1, 3) * 0.3, 0]))
    assert run_skill(world, Task("put", "red cube", "green plate")).success


def scene_that_can_fail(
    world: World, skill: Skill, failure: Failure, things: tuple[str, ...], rng: np.random.Generator
) -> Task:
    """Lay out scenes until there is a task of the skill, and something wrong to do instead."""
    for _ in range(30):
        world.reset(preset("easy"), rng, things)
        tasks = [task for task in feasible(world.scene_state()) if task.skill == skill]
        for task in rng.permutation(np.array(tasks, object)):
            try:
                make_actions(world, task, failure)
            except SimulationError:
                continue
            return task
    raise AssertionError(f"{skill} can't fail as {failure} in 30 scenes")


@pytest.mark.parametrize(
    ("skill", "failure"), [(skill, mode) for skill in SKILLS for mode in FAILURES_OF[skill]]
)
def test_deliberate_failure_fails(world: World, skill: Skill, failure: Failure) -> None:
    cubes = ("red cube", "blue cube", "white cube", "green plate")
    things = ("drawer", "red cube") if skill in ("open", "close") else cubes
    for seed in range(2):
        rng = np.random.default_rng(seed)
        task = scene_that_can_fail(world, skill, failure, things, rng)
        trajectory = run_skill(world, task, failure=failure, rng=rng)
        assert not trajectory.success
        assert len(trajectory.actions) <= MOST_STEPS + 6


def test_failures_differ_by_their_generator(world: World) -> None:
    world.reset(preset("easy"), np.random.default_rng(0), ("red cube",))
    task = Task("lift", "red cube")
    plans = []
    for seed in range(6):
        actions = make_actions(world, task, "missed_grasp", np.random.default_rng(seed))
        plans.append(next(actions))
    assert any(not np.array_equal(plans[0], plan) for plan in plans[1:])


@pytest.mark.parametrize(
    ("task", "failure", "said"),
    [
        (Task("lift", "green plate"), None, "can't be grasped"),
        (Task("lift", "orange cat"), None, "no 'orange cat'"),
        (Task("close", "drawer"), None, "so already"),
        (Task("open", "drawer"), "dropped", "has no failure 'dropped'; it has missed_grasp"),
        (Task("idle"), "missed_grasp", "none"),
        (Task("lift", "red cube"), "wrong_object", "no other to take"),
    ],
)
def test_what_can_not_be_done_is_said_before_the_first_action(
    world: World, task: Task, failure: Any, said: str
) -> None:
    things = ("red cube", "green plate", "drawer")
    config = preset("easy", kinds=("cube", "plate", "drawer"))
    for seed in range(20):
        world.reset(config, np.random.default_rng(seed), things)
        if world.scene_state()["drawer"].open == 0:
            break
    with pytest.raises(SimulationError, match=said):
        make_actions(world, task, failure)


def test_environment_and_its_world_take_the_same_actions() -> None:
    env = TabletopEnv(size=(24, 24))
    env.reset(seed=4)
    saved = env.save_state()
    task = next(task for task in feasible(env.scene_state()) if task.skill == "lift")
    drawn = run_skill(env, task)
    env.restore_state(saved)
    undrawn = run_skill(env.world, task)
    assert np.array_equal(drawn.actions, undrawn.actions)
    assert drawn.after.to_json() == undrawn.after.to_json()
    env.close()
