"""Scorers as other packages expect them.

LeRobot's reward models: `compute_reward(batch) -> (B,)`. stable-worldmodel's solvers: `Costable`,
that is `get_cost(info_dict, action_candidates) -> (B, S)` and `criterion` of the same arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aid_robot.clip import Foresight
from aid_robot.errors import ScoreError
from aid_robot.observation import resize_frames
from aid_robot.planning.goals import Goal
from aid_robot.planning.imagine import Imagination
from aid_robot.planning.scorers.scorer import Scorer, check_scores, name_of
from aid_robot.predictor import Predictor

_IMAGES = "observation.images."
_IMAGE = "observation.image"


class RewardModel:
    """Give a scorer's verdict on recorded clips as LeRobot's reward.

    Args:
        scorer: Who judges.
        camera: Key of the camera, such as "observation.images.image_0"; None takes the only one.
        fps: Frames a second of the clips.
        binary: Return 1.0 from a score of 0.5 on, else 0.0, as LeRobot's own classifier.
    """

    def __init__(
        self, scorer: Scorer, *, camera: str | None = None, fps: float = 5.0, binary: bool = False
    ) -> None:
        self.scorer, self.camera, self.fps, self.binary = scorer, camera, fps, binary

    def compute_reward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return rewards (B,) in [0, 1].

        Args:
            batch: The camera's clips (B, T, 3, H, W) float in [0, 1], T at least 2, as a dataset
                with delta_timestamps gives them, and "task", B texts. "goal", pictures (B, 3, H, W)
                float in [0, 1], may be there too, or instead.

        Raises:
            ScoreError: A key is missing or of another shape.
        """
        seen = self._clips(batch)
        clips = _to_uint8(seen)  # (B, T, H, W, 3)
        tasks, goals = batch.get("task"), batch.get("goal")
        if tasks is None and goals is None:
            raise ScoreError("the batch has neither 'task' nor 'goal'; expected texts or pictures")
        if tasks is not None and (isinstance(tasks, str) or len(tasks) != len(clips)):
            raise ScoreError(f"'task' is {tasks!r}; expected a list of {len(clips)} texts")
        pictures = None if goals is None else _to_uint8(goals)
        rewards = np.empty(len(clips))
        for row, clip in enumerate(clips):
            text = None if tasks is None else tasks[row]
            foresight = Foresight(clip[None], self.fps, text or "", num_conditioning_frames=1)
            goal = Goal(text=text, image=None if pictures is None else pictures[row])
            found = self.scorer([foresight], goal)
            scores = check_scores(name_of(self.scorer), found, [foresight])
            rewards[row] = scores[0, 0]
        if self.binary:
            rewards = (rewards >= 0.5).astype(np.float64)
        return torch.from_numpy(rewards).to(seen.device, torch.float32)

    def _clips(self, batch: Mapping[str, Any]) -> Tensor:
        cameras = [key for key in batch if key.startswith(_IMAGES) or key == _IMAGE]
        cameras = [key for key in cameras if not key.endswith("_is_pad")]
        key = self.camera or (cameras[0] if len(cameras) == 1 else None)
        if key is None or key not in batch:
            raise ScoreError(
                f"the camera is {self.camera!r} and the batch has {', '.join(cameras) or 'none'}; "
                "name one of them"
            )
        clips = batch[key]
        if not isinstance(clips, Tensor) or clips.ndim != 5 or clips.shape[1] < 2:
            raise ScoreError(
                f"'{key}' has shape {tuple(getattr(clips, 'shape', ()))}; expected clips "
                "(B, T, 3, H, W) of 2 frames or more, the first as it was before: ask the dataset "
                "for them by delta_timestamps"
            )
        return clips


class PlanCost:
    """Give stable-worldmodel's solvers the cost of plans: one minus the score of their imagination.

    An action is the number of an instruction: candidates are (B, S, horizon, 1), each a plan of
    `horizon` steps. A solver for discrete actions searches it.

    Args:
        predictor: Who imagines.
        scorer: Who judges.
        instructions: What the numbers mean; -1 does nothing in a step.
        num_samples: Futures of each plan, of whose scores the mean counts.
        seed: Of the imagination.
        **options: Of the prediction.
    """

    def __init__(
        self,
        predictor: Predictor,
        scorer: Scorer,
        instructions: Sequence[str],
        *,
        num_samples: int = 1,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.predictor, self.scorer, self.instructions = predictor, scorer, tuple(instructions)
        self.num_samples, self.seed, self.options = num_samples, seed, options

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """Return costs (B, S) in [0, 1].

        Args:
            info_dict: "pixels" (B, S, T, 3, H, W), of which the last frames of the first candidate
                are seen, and "goal" of the same shape, or "goal_text", B texts. uint8, or floats in
                [0, 1].
            action_candidates: (B, S, horizon, 1) numbers of instructions.
        """
        numbers = action_candidates
        if numbers.ndim != 4 or numbers.shape[-1] != 1:
            raise ScoreError(
                f"action candidates have shape {tuple(numbers.shape)}; expected (B, S, horizon, "
                "1), numbers of instructions"
            )
        plans = numbers[..., 0].round().long().cpu().numpy()
        if plans.min() < -1 or plans.max() >= len(self.instructions):
            raise ScoreError(
                f"action candidates go from {plans.min()} to {plans.max()}; expected -1 to "
                f"{len(self.instructions) - 1}, numbers of instructions"
            )
        pixels = _to_uint8(_first_candidate(info_dict, "pixels"))  # (B, T, H, W, 3)
        goals = None if "goal" not in info_dict else _first_candidate(info_dict, "goal")
        texts = info_dict.get("goal_text")
        costs = np.empty(plans.shape[:2])
        for row, candidates in enumerate(plans):
            image = None if goals is None else _to_uint8(goals)[row, -1]
            goal = Goal(text=None if texts is None else texts[row], image=image)
            costs[row] = 1 - self._score(pixels[row], candidates, goal)
        return torch.from_numpy(costs).to(action_candidates.device, torch.float32)

    def criterion(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """Return the same as `get_cost`."""
        return self.get_cost(info_dict, action_candidates)

    def _score(
        self, seen: NDArray[np.uint8], candidates: NDArray[np.int64], goal: Goal
    ) -> NDArray[np.float64]:
        """Imagine and judge the candidates (S, horizon) of one observation."""
        plans = [
            tuple(self.instructions[number] for number in numbers if number >= 0)
            for numbers in candidates
        ]
        # Solvers ask for the same plan again and again.
        different = [plan for plan in dict.fromkeys(plans) if plan]
        given = self.predictor.num_conditioning_frames
        imagination = Imagination(
            self.predictor, [(seen[-given:], self.seed)], self.num_samples, **self.options
        )
        imagination.add((0, plan) for plan in different)
        foresights = [imagination.foresight(0, plan) for plan in different]
        if () in plans:
            foresights.append(self._nothing(seen, foresights))
            different.append(())
        found = self.scorer(foresights, goal)
        scores = check_scores(name_of(self.scorer), found, foresights).mean(1)
        return np.array([scores[different.index(plan)] for plan in plans])

    def _nothing(self, seen: NDArray[np.uint8], others: Sequence[Foresight]) -> Foresight:
        """Leave everything as it is, in as many and as large frames as the other plans have."""
        shape = others[0].frames.shape[2:4] if others else seen.shape[1:3]
        still = resize_frames(seen[-1:], shape)
        given = self.predictor.num_conditioning_frames
        frames = np.broadcast_to(still, (self.num_samples, given + 1, *still.shape[1:])).copy()
        return Foresight(frames, self.predictor.fps, "", num_conditioning_frames=given)


def _first_candidate(info: Mapping[str, Any], key: str) -> Tensor:
    values = info.get(key)
    if not isinstance(values, Tensor) or values.ndim != 6 or values.shape[3] != 3:
        raise ScoreError(
            f"info_dict['{key}'] has shape {tuple(getattr(values, 'shape', ()))}; expected "
            "(B, S, T, 3, H, W)"
        )
    return values[:, 0]


def _to_uint8(pictures: Any) -> NDArray[np.uint8]:
    """Turn (..., 3, H, W), uint8 or floats in [0, 1], into (..., H, W, 3) uint8."""
    values = torch.as_tensor(pictures)
    if values.ndim < 3 or values.shape[-3] != 3:
        raise ScoreError(f"pictures have shape {tuple(values.shape)}; expected (..., 3, H, W), RGB")
    if values.is_floating_point():
        low, high = float(values.min()), float(values.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ScoreError(f"float pictures go from {low:g} to {high:g}; expected [0, 1]")
        values = (values.float() * 255).round().clamp(0, 255).to(torch.uint8)
    if values.dtype != torch.uint8:
        raise ScoreError(f"pictures have dtype {values.dtype}; expected uint8 or floats in [0, 1]")
    return np.ascontiguousarray(values.movedim(-3, -1).cpu().numpy())
