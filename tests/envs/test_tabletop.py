"""The simulated tabletop is seeded, goes back to saved moments, and says plainly what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import aid_robot.envs  # noqa: F401  registers the environments
from aid_robot.envs.tabletop.config import PRESETS, TabletopConfig, preset
from aid_robot.envs.tabletop.env import TabletopEnv
from aid_robot.envs.tabletop.layout import random_layout
from aid_robot.envs.tabletop.objects import KINDS
from aid_robot.envs.tabletop.skills import make_actions
from aid_robot.envs.tabletop.tasks import Task
from aid_robot.envs.tabletop.view import CAMERA, FOVY, RIGHT, UP, in_view
from aid_robot.envs.tabletop.world import World
from aid_robot.errors import AIDRobotError, ConfigError, InstructionError, SimulationError

SIZE = (48, 48)
REST = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)


@pytest.fixture(scope="module")
def env() -> Iterator[TabletopEnv]:
    made = TabletopEnv(size=SIZE)
    yield made
    made.close()


@pytest.fixture(scope="module")
def other() -> Iterator[TabletopEnv]:
    made = TabletopEnv(size=SIZE)
    yield made
    made.close()


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[key], second[key]) for key in first
    )


def random_actions(env: TabletopEnv, count: int, seed: int = 0) -> list[Any]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


@pytest.mark.filterwarnings("ignore:.*Box observation space.*infinit:UserWarning")
@pytest.mark.parametrize("options", [{}, {"preset": "hard", "cameras": ("image_1", "image_0")}])
def test_gymnasiums_own_check_passes(options: dict[str, Any]) -> None:
    made = gymnasium.make(
        "aid_robot/Tabletop-v0", size=(24, 32), render_mode="rgb_array", **options
    )
    check_env(made.unwrapped)
    made.close()


def test_observation_is_bridges(env: TabletopEnv) -> None:
    obs, info = env.reset(seed=5)
    assert obs["image_0"].shape == (*SIZE, 3)
    assert obs["image_0"].std() > 10
    assert obs["state"] == pytest.approx(env.scene_state().gripper, abs=1e-6)
    assert obs["state"][6] == pytest.approx(1, abs=0.02)
    assert obs["state"][3:6] == pytest.approx([0, 0, 0], abs=0.02)  # points straight down
    assert obs["instruction"]
    assert info["task"] == env._task.to_json() if env._task else False
    assert info["success"] is False
    assert info["fps"] == 5
    assert info["renderer"] in ("egl", "osmesa", "rays")
    assert [thing["name"] for thing in info["scene"]["things"]] == list(env.scene_state().names)


def test_same_seed_gives_the_same_frames(env: TabletopEnv, other: TabletopEnv) -> None:
    first, _ = env.reset(seed=3)
    assert same(first, other.reset(seed=3)[0])
    for action in random_actions(env, 6):
        assert same(env.step(action)[0], other.step(action)[0])
    assert same(env.reset()[0], other.reset()[0])
    assert not same(env.reset(seed=4)[0], first)


def test_restored_state_goes_on_exactly(env: TabletopEnv, other: TabletopEnv) -> None:
    env.reset(seed=8, options={"instruction": "put the carrot on the plate"})
    actions = make_actions(env, Task.from_json(env.step(REST)[4]["task"]))
    for _, action in zip(range(9), actions, strict=False):
        env.step(action)
    saved, seen = env.save_state(), env.observe()
    ahead = random_actions(env, 5)
    truth = [(env.step(action)[0], env.world.data.qpos.copy()) for action in ahead]
    other.reset(seed=1)
    for restored in (env, other):
        restored.restore_state(saved)
        assert same(restored.observe(), seen)
        for action, (obs, qpos) in zip(ahead, truth, strict=True):
            assert same(restored.step(action)[0], obs)
            assert np.array_equal(restored.world.data.qpos, qpos)


def test_reset_takes_a_saved_state_and_another_task(env: TabletopEnv) -> None:
    env.reset(seed=2, options={"things": ["red cube", "blue cube"]})
    saved = env.save_state()
    first, _ = env.reset(options={"state": saved, "instruction": "lift the red cube"})
    second, info = env.reset(options={"state": saved, "task": Task("lift", "blue cube")})
    assert np.array_equal(first["image_0"], second["image_0"])
    assert (first["instruction"], second["instruction"]) == (
        "lift the red cube",
        "lift the blue cube",
    )
    assert info["task"] == {"skill": "lift", "object": "blue cube"}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_actions_move_the_gripper_in_the_base_frame(env: TabletopEnv, axis: int, sign: int) -> None:
    start, _ = env.reset(seed=0)
    action = REST.copy()
    action[axis] = sign * 0.03
    for _ in range(2):
        obs = env.step(action)[0]
    obs = env.step(REST)[0]
    moved = np.zeros(3)
    moved[axis] = sign * 0.06
    assert obs["state"][:3] - start["state"][:3] == pytest.approx(moved, abs=0.004)
    assert obs["state"][3:6] == pytest.approx(start["state"][3:6], abs=0.03)


def test_actions_turn_and_close_the_gripper(env: TabletopEnv) -> None:
    start, _ = env.reset(seed=0)
    for _ in range(3):
        obs = env.step(np.array([0, 0, 0, 0, 0, 0.2, 0.25], np.float32))[0]
    obs = env.step(np.array([0, 0, 0, 0, 0, 0, 0.25], np.float32))[0]
    assert obs["state"][5] - start["state"][5] == pytest.approx(0.6, abs=0.03)
    assert obs["state"][6] == pytest.approx(0.25, abs=0.03)
    assert obs["state"][:3] == pytest.approx(start["state"][:3], abs=0.005)


def test_out_of_reach_leaves_the_arm_where_it_is(env: TabletopEnv) -> None:
    env.reset(seed=0)
    for _ in range(12):
        obs = env.step(np.array([0.06, 0.06, 0.06, 0.4, 0.4, 0.4, 1], np.float32))[0]
    assert np.isfinite(obs["state"]).all()
    assert np.linalg.norm(obs["state"][:3]) < 0.7


@pytest.mark.parametrize(
    "action", [np.full(7, np.nan), np.zeros(6), np.zeros((1, 7)), [0, 0, 0, np.inf, 0, 0, 1], "up"]
)
def test_what_is_no_action_is_refused(env: TabletopEnv, action: Any) -> None:
    env.reset(seed=0)
    before = env.world.data.qpos.copy()
    with pytest.raises(SimulationError, match="expected"):
        env.step(action)
    assert np.array_equal(env.world.data.qpos, before)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"instruction": "lift the sponge"}, InstructionError, "no 'sponge'"),
        ({"instruction": "juggle the carrot"}, InstructionError, "not among what the robot can"),
        ({"instruction": "put the plate on the pot"}, SimulationError, "can't be grasped"),
        ({"task": Task("lift", "golden cube")}, SimulationError, "there is no 'golden cube'"),
        ({"things": "red cube"}, ConfigError, "a list of names"),
        ({"things": ["red crube"]}, SimulationError, "did you mean 'red cube'"),
        (
            {"things": ["white bowl", "red pot", "blue plate", "pink cloth", "drawer"]},
            SimulationError,
            "found no room",
        ),
        ({"things": [f"{c} cube" for c in ("red", "blue", "white", "pink")]}, SimulationError, "3"),
        ({"episode": 3}, ConfigError, "no option episode"),
        ({"instruction": "do nothing", "task": Task("idle")}, ConfigError, "one of them"),
        ({"state": None}, SimulationError, "no saved state"),
    ],
)
def test_what_no_scene_can_be_is_refused(
    env: TabletopEnv, options: dict[str, Any], error: type[AIDRobotError], said: str
) -> None:
    with pytest.raises(error, match=said):
        env.reset(seed=0, options=options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"preset": "hrad"}, "did you mean 'hard'"),
        ({"cameras": ("wrist",)}, "image_0, image_1"),
        ({"cameras": ()}, "none"),
        ({"render_mode": "human"}, "rgb_array"),
    ],
)
def test_what_no_environment_can_be_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TabletopEnv(**options)
    with pytest.raises(ConfigError, match="min_things"):
        TabletopConfig(min_things=4, max_things=3)


def test_first_call_must_be_reset() -> None:
    fresh = TabletopEnv(size=SIZE)
    for call in (fresh.save_state, lambda: fresh.step(REST)):
        with pytest.raises(gymnasium.error.ResetNeeded):
            call()


def test_episode_ends_with_reward_when_the_task_is_done(env: TabletopEnv) -> None:
    _, info = env.reset(seed=6, options={"instruction": "put the cube in the bowl"})
    steps = []
    for action in make_actions(env, Task.from_json(info["task"])):
        _, reward, terminated, truncated, info = env.step(action)
        steps.append((reward, terminated, info["success"]))
        assert not truncated
        assert reward == info["success"] == terminated
        if terminated:
            break
    assert steps[-1] == (1, True, True)
    assert len(steps) > 10


def test_scene_of_nothing_to_grasp_asks_for_nothing() -> None:
    bare = TabletopEnv(size=SIZE, config=preset("easy", kinds=("plate", "bowl", "cloth")))
    obs, _ = bare.reset(seed=0)
    assert obs["instruction"] == "do nothing"
    _, reward, terminated, _, _ = bare.step(REST)
    assert (reward, terminated) == (1, False)
    bare.close()


def test_instruction_is_done_in_the_things_it_names(env: TabletopEnv) -> None:
    for text, names in (
        ("stack the red block on the blue cube", {"red cube", "blue cube"}),
        ("close the drawer", {"drawer"}),
        ("put the banana in the green pot or pan", {"banana", "green pot"}),
    ):
        obs, _ = env.reset(seed=1, options={"instruction": text})
        assert obs["instruction"] == text
        assert names <= set(env.scene_state().names)


# Scenes


def test_presets_vary_what_they_say() -> None:
    world = World()

    def looks(name: str, seed: int) -> tuple[bytes, ...]:
        world.reset(PRESETS[name], np.random.default_rng(seed))
        parts = ("cam_pos", "cam_quat", "light_dir", "tex_data")
        return tuple(getattr(world.model, part).tobytes() for part in parts)

    easy = [looks("easy", seed) for seed in range(3)]
    assert easy[0] == easy[1] == easy[2]
    for part in zip(*(looks("hard", seed) for seed in range(3)), strict=True):
        assert len(set(part)) == 3
    for seed in range(3):
        world.reset(PRESETS["easy"], np.random.default_rng(seed))
        assert len(world.things) == 3
        world.reset(PRESETS["hard"], np.random.default_rng(seed))
        assert len(world.things) == 5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(sorted(PRESETS)))
def test_things_lie_apart_in_view_and_are_told_apart(seed: int, name: str) -> None:
    placed = random_layout(preset(name), np.random.default_rng(seed))
    assert len({thing.name for thing in placed}) == len(placed)
    assert len({thing.body for thing in placed}) == len(placed)
    things = [thing for thing in placed if thing.kind != "drawer"]
    assert any(KINDS[thing.kind].graspable for thing in things)
    for number, thing in enumerate(things):
        radius = max(KINDS[thing.kind].half_size[:2])
        assert in_view(np.array([thing.x, thing.y]), radius, 0.9)
        for second in things[:number]:
            apart = math.hypot(thing.x - second.x, thing.y - second.y)
            assert apart > radius + max(KINDS[second.kind].half_size[:2]) + 0.03


def test_view_is_that_of_the_models_camera() -> None:
    camera = World().model.camera("image_0")
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, camera.quat)
    assert camera.pos == pytest.approx(CAMERA)
    assert camera.fovy == FOVY
    axes = rotation.reshape(3, 3).T
    assert axes[:2] == pytest.approx(np.stack([RIGHT, UP]), abs=1e-3)


def test_small_things_are_large_enough_to_see() -> None:
    wide = TabletopEnv(size=(128, 128), config=preset("default", drawer=0.0))
    widths = []
    for seed in range(8):
        before, _ = wide.reset(seed=seed)
        for placed in wide.world.things:
            if placed.kind not in ("cube", "ball", "can", "cup", "banana", "carrot"):
                continue
            geoms = wide.world.model.body(placed.body)
            first, count = int(geoms.geomadr[0]), int(geoms.geomnum[0])
            kept = wide.world.model.geom_rgba[first : first + count].copy()
            wide.world.model.geom_rgba[first : first + count] = (1, 0, 1, 1)
            changed = (wide.observe()["image_0"] != before["image_0"]).any(-1)
            wide.world.model.geom_rgba[first : first + count] = kept
            columns = np.flatnonzero(changed.any(0))
            if len(columns):  # may stand behind something else
                widths.append(columns[-1] - columns[0] + 1)
    assert len(widths) > 12
    assert np.percentile(widths, 10) >= 12
    wide.close()
