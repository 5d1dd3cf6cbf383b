"""What would follow each plan: every candidate in one batch, step by step.

    foresights = imagine(predictor, frame, ["open the drawer", "lift the can"], num_samples=4)

A later step starts from the last imagined frames of the step before it, sample by sample. Plans
that begin alike share what they have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from aid_robot.clip import Foresight
from aid_robot.observation import to_frames
from aid_robot.options import check_count, draw_seed
from aid_robot.planning.plans import PlanLike, check_plans
from aid_robot.predictor import Predictor, Request

# Whose imagination (the number of a start), and the instructions up to here.
Prefix = tuple[int, tuple[str, ...]]


def imagine(
    predictor: Predictor,
    obs: Any,
    plans: Sequence[PlanLike],
    *,
    num_samples: int = 1,
    clips_per_step: int = 1,
    seed: int | None = None,
    **options: Any,
) -> list[Foresight]:
    """Imagine what follows each plan.

    All plans are given the same noise, so that they differ by what they say and not by chance.

    Args:
        predictor: Asked once for each step of the longest plan, for all plans and samples at once.
        obs: An observation of any layout that `to_frames` knows.
        plans: Candidates, see `check_plans`.
        num_samples: Futures of each plan.
        clips_per_step: Clips of each instruction, one after the other, for skills that take longer
            than one.
        seed: Same seed, same frames, whatever the other plans are.
        options: See `PredictOptions`.

    Returns:
        A foresight for each plan, (num_samples, K + steps x clips_per_step x (N - K), H, W, 3).
    """
    checked = check_plans(plans)
    imagination = Imagination(
        predictor, [(obs, draw_seed(seed))], num_samples, clips_per_step, **options
    )
    imagination.add((0, plan.steps) for plan in checked)
    return [imagination.foresight(0, plan.steps) for plan in checked]


class Imagination:
    """What has been imagined from one or more starts, which grows as plans are added.

    Args:
        predictor: Who imagines.
        starts: (observation, seed) of each.
        num_samples: Futures of each plan.
        clips_per_step: Clips of each instruction, one after the other.
        options: See `PredictOptions`.
    """

    def __init__(
        self,
        predictor: Predictor,
        starts: Sequence[tuple[Any, int]],
        num_samples: int = 1,
        clips_per_step: int = 1,
        **options: Any,
    ) -> None:
        check_count("num_samples", num_samples)
        check_count("clips_per_step", clips_per_step)
        if "states" in options:
            raise TypeError("each step has states of its own: imagine takes no states")
        self.predictor, self.num_samples = predictor, num_samples
        self.clips_per_step = clips_per_step
        count, camera = predictor.num_conditioning_frames, options.pop("camera", None)
        # Taken apart once, not for each plan.
        self._starts = [
            (to_frames(obs, num_frames=count, camera=camera).frames, seed) for obs, seed in starts
        ]
        self._options = options
        self._clips: dict[Prefix, Foresight] = {}
        # Seconds a stage, of all that was asked for.
        self.timings: dict[str, float] = {}
        # Clips that were predicted, each a step of one sample.
        self.rows = 0
        # Denoising steps of a clip; 0 where the predictor has none.
        self.steps = 0

    def add(self, wanted: Iterable[Prefix]) -> None:
        """Imagine what is not yet known of some plans, level by level."""
        plans = [(start, self._clipwise(steps)) for start, steps in wanted]
        for level in range(max((len(steps) for _, steps in plans), default=0)):
            prefixes = dict.fromkeys(
                (start, steps[: level + 1]) for start, steps in plans if len(steps) > level
            )
            missing = [prefix for prefix in prefixes if prefix not in self._clips]
            if missing:
                self._roll(missing, level)

    def foresight(self, start: int, steps: tuple[str, ...]) -> Foresight:
        """Return the joined clips of a plan that was added, a part of `settings["plan"]` a step."""
        clipwise, count = self._clipwise(steps), self.clips_per_step
        joined = Foresight.chain(
            [self._clips[start, clipwise[: number + 1]] for number in range(len(clipwise))]
        )
        parts = joined.settings["plan"]
        plan = [
            {**first, "stop": last["stop"]}
            for first, last in zip(parts[::count], parts[count - 1 :: count], strict=True)
        ]
        return replace(
            joined, instruction=" -> ".join(steps), settings={**joined.settings, "plan": plan}
        )

    def _clipwise(self, steps: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(step for step in steps for _ in range(self.clips_per_step))

    def _roll(self, prefixes: Sequence[Prefix], level: int) -> None:
        """Imagine one more step of each prefix, all in one batch."""
        self.rows += len(prefixes) * self.num_samples
        if level == 0:
            requests = [
                Request(self._starts[start][0], steps[0], self._starts[start][1])
                for start, steps in prefixes
            ]
            clips = self.predictor.predict_many(
                requests, num_samples=self.num_samples, **self._options
            )
            self._note(clips)
            self._clips.update(zip(prefixes, clips, strict=True))
            return
        count = self.predictor.num_conditioning_frames
        requests = [
            Request(past[-count:], steps[-1], _step_seed(self._starts[start][1], level, sample))
            for start, steps in prefixes
            for sample, past in enumerate(self._clips[start, steps[:-1]].frames)
        ]
        parts = iter(self.predictor.predict_many(requests, **self._options))
        for prefix in prefixes:
            samples = [next(parts) for _ in range(self.num_samples)]
            if prefix is prefixes[0]:
                self._note(samples)
            frames = np.concatenate([sample.frames for sample in samples])
            self._clips[prefix] = replace(samples[0], frames=frames)

    def _note(self, clips: Sequence[Foresight]) -> None:
        # Every clip of a batch has the settings and timings of the batch.
        self.steps = int(clips[0].settings.get("steps", 0))
        for stage, seconds in clips[0].timings.items():
            self.timings[stage] = self.timings.get(stage, 0.0) + seconds


def _step_seed(seed: int, level: int, sample: int) -> int:
    """Return the seed of a later step; that of the first sample is as in `rollout`."""
    if sample == 0:
        return seed + level
    return int(np.random.SeedSequence([seed, level, sample]).generate_state(1, np.uint64)[0] >> 1)
