"""A recorded episode plays as any Gymnasium environment does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import aid_robot.envs  # noqa: F401  registers the environments
from aid_robot.data import VideoFrames, write_video
from aid_robot.errors import AIDRobotError, ConfigError, DataFormatError, ObservationError
from aid_robot.observation import to_frames
from tests.recordings import plain_frames, write_irasim

ID = "aid_robot/RecordedEpisode-v0"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_irasim(tmp_path_factory.mktemp("recording"), episodes=3)


def labelled(folder: Path, outcome: str, frames: int = 4) -> Path:
    write_video(folder / "v.mp4", plain_frames([40 + 5 * t for t in range(frames)]), 5)
    (folder / "index.csv").write_text(f"file,instruction,outcome\nv.mp4,öffne die Lade,{outcome}\n")
    return folder


def play(env: gymnasium.Env[Any, Any], **reset: Any) -> list[tuple[Any, ...]]:
    """Play an episode with random actions; what reset and every step returned, as 5-tuples."""
    obs, info = env.reset(**reset)
    steps: list[tuple[Any, ...]] = [(obs, 0.0, False, False, info)]
    while not (steps[-1][2] or steps[-1][3]):
        steps.append(env.step(env.action_space.sample()))
    return steps


@pytest.mark.parametrize("options", [{}, {"episode": None}, {"size": (32, 40)}])
@pytest.mark.filterwarnings("ignore:.*Box observation space.*infinit:UserWarning")
def test_gymnasiums_own_check_passes(recording: Path, options: dict[str, Any]) -> None:
    env = gymnasium.make(ID, path=recording, render_mode="rgb_array", **options)
    check_env(env.unwrapped)


def test_frames_states_and_actions_come_in_step(recording: Path) -> None:
    steps = play(gymnasium.make(ID, path=recording, episode=1))
    recorded = VideoFrames(recording / "videos/train/1/rgb.mp4")
    assert len(steps) == len(recorded) == 8
    for number, (obs, reward, terminated, truncated, info) in enumerate(steps):
        assert np.array_equal(obs["image_0"], recorded[number])
        assert obs["instruction"] == "open the drawer"
        assert obs["state"] == pytest.approx(np.full(7, number / 10))
        assert info["frame"] == number
        assert (reward, terminated, truncated) == (0, False, number == 7)
    # Bridge: nothing follows the last frame, so the arm stands still and the gripper stays.
    actions = np.stack([info["recorded_action"] for *_, info in steps])
    assert actions[:7] == pytest.approx(np.arange(7)[:, None].repeat(7, 1) / 100)
    assert actions[7] == pytest.approx([0] * 6 + [0.06])


def test_actions_change_nothing_and_observations_are_the_callers(recording: Path) -> None:
    env = gymnasium.make(ID, path=recording)
    first, _ = env.reset()
    first["image_0"][:] = 0
    first["state"][:] = 9
    again, _ = env.reset()
    assert again["image_0"].mean() > 30
    assert again["state"] == pytest.approx(np.zeros(7))


def test_seed_decides_which_episode_is_played(recording: Path) -> None:
    def episodes(seed: int) -> list[str]:
        env = gymnasium.make(ID, path=recording, episode=None)
        first = env.reset(seed=seed)[1]["episode"]
        return [first, *(env.reset()[1]["episode"] for _ in range(9))]

    assert episodes(4) == episodes(4)
    assert set(episodes(4)) == {"train/0", "train/1", "train/2"}
    for one, other in zip(
        play(gymnasium.make(ID, path=recording, episode=None), seed=4),
        play(gymnasium.make(ID, path=recording, episode=None), seed=4),
        strict=True,
    ):
        assert np.array_equal(one[0]["image_0"], other[0]["image_0"])


def test_episode_is_chosen_by_number_or_id_at_reset(recording: Path) -> None:
    env = gymnasium.make(ID, path=recording)
    assert env.reset()[1]["episode"] == "train/0"
    assert env.reset(options={"episode": 2})[1]["episode"] == "train/2"
    assert env.reset(options={"episode": "train/1"})[0]["instruction"] == "open the drawer"
    assert env.reset()[1]["episode"] == "train/0"


@pytest.mark.parametrize(("outcome", "reward"), [("success", 1), ("fail", 0), ("demo", 0)])
def test_only_a_labelled_success_is_rewarded(tmp_path: Path, outcome: str, reward: int) -> None:
    env = gymnasium.make(ID, path=labelled(tmp_path, outcome))
    steps = play(env)
    assert [step[1] for step in steps] == [0, 0, 0, reward]
    assert "recorded_action" not in steps[0][4]
    assert "state" not in steps[0][0]
    assert steps[0][0] in env.observation_space  # with its umlaut


def test_picture_is_the_frame_and_plays_at_the_recordings_rate(recording: Path) -> None:
    env = gymnasium.make(ID, path=recording, render_mode="rgb_array", fps=10)
    obs, _ = env.reset()
    assert np.array_equal(env.render(), obs["image_0"])
    assert env.metadata["render_fps"] == 10


def test_observation_is_one_that_predictors_know(recording: Path) -> None:
    obs, _ = gymnasium.make(ID, path=recording).reset()
    found = to_frames(obs)
    assert np.array_equal(found.frames[0], obs["image_0"])
    assert found.instruction == "put the carrot on the plate"


def test_episodes_of_other_sizes_need_one_size(tmp_path: Path) -> None:
    for name, side in (("a", 48), ("b", 64)):
        write_video(tmp_path / f"{name}.mp4", plain_frames([50, 60], side, side), 5)
    env = gymnasium.make(ID, path=tmp_path)
    env.reset()
    with pytest.raises(ObservationError, match=r"size=\(H, W\)"):
        env.reset(options={"episode": 1})
    env = gymnasium.make(ID, path=tmp_path, size=(32, 32))
    for episode in (0, 1):
        assert env.reset(options={"episode": episode})[0]["image_0"].shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        ({"episode": 3}, DataFormatError, "0 to 2"),
        ({"episode": "train/9"}, DataFormatError, "no episode 'train/9'"),
        ({"cameras": ["image_5"]}, ObservationError, "it has image_0"),
        ({"render_mode": "ansi"}, ConfigError, "rgb_array"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*render_mode:UserWarning")
def test_wrong_choices_say_what_there_is(
    recording: Path, options: dict[str, Any], error: type[AIDRobotError], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        gymnasium.make(ID, path=recording, **options)


def test_wrong_reset_option_and_step_beyond_the_end(recording: Path) -> None:
    env = gymnasium.make(ID, path=recording)
    with pytest.raises(ConfigError, match="episode"):
        env.reset(options={"epsiode": 1})
    env = gymnasium.make(ID, path=recording)
    play(env)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(env.action_space.sample())


def test_episode_of_one_frame_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="2 or more"):
        gymnasium.make(ID, path=labelled(tmp_path, "demo", frames=1))


@pytest.mark.bridge
@pytest.mark.parametrize("layout", ["irasim", "demos", "rlds/bridge_dataset/1.0.0"])
def test_recorded_bridge_episodes_play(bridge_dir: Path, layout: str) -> None:
    env = gymnasium.make(ID, path=bridge_dir / layout, episode=2, cameras=["image_0"])
    steps = play(env)
    assert len(steps) > 5
    assert all(obs in env.observation_space for obs, *_ in steps)
