"""A recorded episode as an environment: the same frames, whatever is done.

    import gymnasium, aid_robot.envs
    env = gymnasium.make("aid_robot/RecordedEpisode-v0", path="bridge_dataset/1.0.0", episode=3)

For trying a control loop, a predictor or a recorder on real pictures before it meets a robot.
"""

from __future__ import annotations

import os
import string
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from aid_robot.data.episode import Episode, UInt8Array
from aid_robot.data.ingest import open_recording
from aid_robot.data.ingest.recording import BRIDGE_FPS
from aid_robot.errors import ConfigError, DataFormatError, ObservationError
from aid_robot.observation import resize_frames

Action = NDArray[np.float32]
Obs = dict[str, Any]


class Instruction(spaces.Text):
    """Any text, blank too; samples are of printable ASCII."""

    def __init__(self, max_length: int = 10_000) -> None:
        super().__init__(max_length, min_length=0, charset=string.printable)

    def contains(self, x: Any) -> bool:
        """Take texts of every script."""
        return isinstance(x, str) and len(x) <= self.max_length


class RecordedEpisodeEnv(gymnasium.Env[Obs, Action]):
    """Play a recorded episode in Bridge's conventions; actions change nothing.

    Observations hold each camera's (H, W, 3) uint8 frame under its name ("image_0", ...), "state"
    (7,) where the recording has it, and "instruction", blank where it has none.
    `info["recorded_action"]` (7,) is what the robot did on seeing this observation. An episode ends
    truncated at its last frame; the reward is 1 there if it is labelled a success, else always 0: a
    demonstration has no label.

    Args:
        path: A recording of any readable layout.
        episode: Number or id of the episode; None takes a random one at every reset.
        cameras: Cameras to show; None takes those of the episode, or of the recording's first.
        size: (H, W) to squash frames to; None takes that of the same episode.
        fps: Frames a second of the recorded world where the recording doesn't say it.
        render_mode: "rgb_array" or None.
    """

    # Not a ClassVar, as Gymnasium has it: every instance has the rate of its recording.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": BRIDGE_FPS}  # noqa: RUF012

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        episode: int | str | None = 0,
        cameras: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode is {render_mode!r}; expected 'rgb_array' or None")
        self.render_mode = render_mode
        self.recording = open_recording(os.fspath(path), fps=fps)
        self._choice = episode
        first = self._read(0 if episode is None else episode)
        self._cameras = tuple(cameras or first.videos)
        self._check_cameras(first)
        self._resize_to = size
        self._sizes = {camera: size or first.videos[camera].size for camera in self._cameras}
        self._has_state = first.state is not None
        if first.fps is not None:
            self.metadata = {**self.metadata, "render_fps": first.fps}
        self.observation_space = self._make_observation_space()
        # Gripper last, 1 = open; the other six relative [m, rad].
        low = np.array([-1, -1, -1, -1, -1, -1, 0], np.float32)
        self.action_space = spaces.Box(low, np.ones(7, np.float32))
        self._episode: Episode | None = None
        self._played: int | str | None = None
        self._frame = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Go to the first frame of an episode, of another with `options={"episode": 3}`."""
        super().reset(seed=seed)
        unknown = set(options or {}) - {"episode"}
        if unknown:
            raise ConfigError(f"reset has no option {', '.join(sorted(unknown))}; it has episode")
        choice = (options or {}).get("episode", self._choice)
        if choice is None:
            choice = int(self.np_random.integers(len(self.recording)))
        # Reading one is not free, and most resets ask for the same one.
        if self._episode is None or choice != self._played:
            episode = self._read(choice)
            self._check_fits(episode)
            self._episode, self._played = episode, choice
        self._frame = 0
        return self._observation(self._episode), self._info(self._episode)

    def step(self, action: Action) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Go to the next frame."""
        episode = self._episode
        if episode is None or self._frame >= len(episode) - 1:
            raise gymnasium.error.ResetNeeded("the episode is at its end: call reset first")
        self._frame += 1
        at_end = self._frame == len(episode) - 1
        reward = float(at_end and episode.outcome == "success")
        return self._observation(episode), reward, False, at_end, self._info(episode)

    def render(self) -> UInt8Array | None:
        """Show the frame of the first camera (H, W, 3)."""
        if self.render_mode is None or self._episode is None:
            return None
        return self._picture(self._episode, self._cameras[0])

    def _read(self, choice: int | str) -> Episode:
        if isinstance(choice, int | np.integer) and not 0 <= choice < len(self.recording):
            raise DataFormatError(
                f"{self.recording.path} has no episode {choice}; expected 0 to "
                f"{len(self.recording) - 1}, or an id"
            )
        episode = self.recording[choice if isinstance(choice, str) else int(choice)]
        if len(episode) < 2:
            raise DataFormatError(
                f"episode '{episode.id}' has {len(episode)} frame; expected 2 or more, so that "
                "there is a step to take: choose another episode"
            )
        return episode

    def _make_observation_space(self) -> spaces.Dict:
        parts: dict[str, spaces.Space[Any]] = {
            camera: spaces.Box(0, 255, (*size, 3), np.uint8) for camera, size in self._sizes.items()
        }
        if self._has_state:
            parts["state"] = spaces.Box(-np.inf, np.inf, (7,), np.float32)
        parts["instruction"] = Instruction()
        return spaces.Dict(parts)

    def _check_cameras(self, episode: Episode) -> None:
        missing = [camera for camera in self._cameras if camera not in episode.videos]
        if missing:
            raise ObservationError(
                f"episode '{episode.id}' has no camera {', '.join(missing)}; it has "
                f"{', '.join(episode.videos)}: make the environment with cameras= of those that "
                "all its episodes have"
            )

    def _check_fits(self, episode: Episode) -> None:
        """Refuse an episode that the observation space has no place for."""
        self._check_cameras(episode)
        for camera, expected in self._sizes.items():
            found = episode.videos[camera].size
            if self._resize_to is None and found != expected:
                raise ObservationError(
                    f"frames of {camera} in episode '{episode.id}' are {found}, those of the "
                    f"environment {expected}: make it with size=(H, W), for all to be resized"
                )
        if self._has_state and episode.state is None:
            raise ObservationError(
                f"episode '{episode.id}' has no state, which the environment shows: make another "
                "environment for it, with episode="
            )

    def _picture(self, episode: Episode, camera: str) -> UInt8Array:
        frame = episode.videos[camera][self._frame]
        return frame if self._resize_to is None else resize_frames(frame, self._resize_to)

    def _observation(self, episode: Episode) -> Obs:
        obs: Obs = {camera: self._picture(episode, camera) for camera in self._cameras}
        if self._has_state and episode.state is not None:
            obs["state"] = episode.state[self._frame].copy()
        obs["instruction"] = episode.instruction or ""
        return obs

    def _info(self, episode: Episode) -> dict[str, Any]:
        """Say what is shown; "recorded_action" only where the recording has actions."""
        info: dict[str, Any] = {
            "episode": episode.id,
            "frame": self._frame,
            "fps": episode.fps,
            "outcome": episode.outcome,
            "source": episode.source,
        }
        if episode.actions is not None:
            info["recorded_action"] = episode.actions[self._frame].copy()
        return info
