"""Keep what was decided and what came of it, as episodes of a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray

from aid_robot.data.episode import Episode, Outcome
from aid_robot.data.frames import ArrayFrames
from aid_robot.data.store import EpisodeStore
from aid_robot.envs.pilot import DONE, FAILED, Pilot
from aid_robot.errors import ConfigError
from aid_robot.observation import resize_frames
from aid_robot.observation_layouts import CAMERA_PREFERENCE

# Cameras of a recorded decision: what was seen, and what had been imagined for that moment.
SEEN, IMAGINED = CAMERA_PREFERENCE[0], "imagined"
_ACTION_SIZE = 7


def check_recordable(space: Space[Any]) -> None:
    """Raise ConfigError for a space whose actions are no arrays of numbers."""
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete
                      | spaces.MultiBinary):  # fmt: skip
        raise ConfigError(
            f"actions of {space} can't be recorded; expected arrays of numbers (Box, Discrete): "
            "flatten them by a wrapper, or leave out recorder="
        )


@dataclass
class _Track:
    """A plan while it is carried out."""

    seen: list[NDArray[np.uint8]]
    imagined: list[NDArray[np.uint8]]
    states: list[NDArray[np.float32] | None]
    actions: list[Any] = field(default_factory=list)


class DecisionRecorder:
    """Record every plan that was carried out as an episode, for calibration and for looking back.

    An episode has the camera that was decided by ("image_0"), what was imagined at the same time
    ("imagined"; the last such frame stays), actions and states; its instruction is the plan, and
    `info["decision"]` is `Decision.to_json()` with the number of the plan that was carried out.
    Its "success" is whether the goal was reached at the end, as the planner's `outcome` said; None
    where nobody knows, or where the plan was cut short before, by time, surprise or a limit on the
    episode's steps. The episode's outcome is the same where the plan is the task's own text, and
    open where it is another: an opened drawer is no failure to open it, though another thing was
    wanted. One recorder may serve several environments.

    Args:
        store: Open for writing; left open.
        prefix: Of the episodes' ids.
    """

    def __init__(self, store: EpisodeStore, *, prefix: str = "decision") -> None:
        self.store, self.prefix = store, prefix
        self._tracks: dict[Pilot, _Track] = {}

    def begin(self, pilot: Pilot) -> None:
        """Start with what the pilot sees now."""
        frame = self._imagined(pilot, None)
        self._tracks[pilot] = _Track([pilot.frame], [frame], [pilot.state])

    def add(self, pilot: Pilot, action: Any) -> None:
        """Take an action, and what was seen after it."""
        track = self._tracks[pilot]
        track.actions.append(action)
        track.seen.append(pilot.frame)
        track.imagined.append(self._imagined(pilot, track.imagined[-1]))
        track.states.append(pilot.state)

    def end(self, pilot: Pilot, success: Any = None, *, terminated: bool = False) -> None:
        """Append the episode; without effect where nothing was done.

        Args:
            pilot: Who carried out the plan.
            success: Whether the goal was reached, a bool of any kind; None where nobody knows.
            terminated: Whether the environment came to its end, so that nothing can follow.
        """
        track = self._tracks.pop(pilot, None)
        if track is None or not track.actions:
            return
        known = None if success is None else bool(success)
        if not known and not terminated and pilot.trigger not in (DONE, FAILED):
            known = None  # not yet
        self.store.append(self._episode(pilot, track, known))

    def _imagined(self, pilot: Pilot, before: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        imagined = pilot.imagined()
        if imagined is None:
            return pilot.frame if before is None else before
        # The middle of the few frames that now may be.
        return np.asarray(imagined[0, imagined.shape[1] // 2])

    def _episode(self, pilot: Pilot, track: _Track, success: bool | None) -> Episode:
        assert pilot.decision is not None
        assert pilot.plan is not None
        actions = np.stack([np.atleast_1d(np.asarray(a, np.float32)) for a in track.actions])
        # Nothing follows the last frame: the arm stands still, and the gripper stays.
        last = np.zeros_like(actions[:1])
        last[..., -1] = actions[-1:, ..., -1]
        actions = np.concatenate([actions, last])
        is_arm = actions.shape[1:] == (_ACTION_SIZE,)
        states = [state for state in track.states if state is not None]
        has_states = len(states) == len(track.states) and states[0].shape == (_ACTION_SIZE,)
        size = track.seen[0].shape[:2]
        videos = {
            SEEN: ArrayFrames(np.stack(track.seen)),
            IMAGINED: ArrayFrames(resize_frames(np.stack(track.imagined), size)),
        }
        decision = pilot.decision
        is_task = str(pilot.plan).casefold() == (pilot.told or "").strip().casefold()
        outcome: Outcome | None = None
        if is_task and success is not None:
            outcome = "success" if success else "failure"
        info = {
            "decision": {
                **decision.to_json(),
                "carried_out": decision.plans.index(pilot.plan),
                "failure": pilot.failure,
                "success": success,
            }
        }
        text = str(pilot.plan)
        return Episode(
            id=self._new_id(),
            videos=videos,
            actions=actions if is_arm else None,
            state=np.stack(states).astype(np.float32) if has_states else None,
            instruction=text,
            instructions=(text,),
            outcome=outcome,
            fps=pilot.watch.fps,
            arrays={} if is_arm else {"env_action": actions},
            info=info,
        )

    def _new_id(self) -> str:
        number = len(self.store)
        while f"{self.prefix}-{number:05d}" in self.store:
            number += 1
        return f"{self.prefix}-{number:05d}"
