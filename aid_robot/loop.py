"""Look ahead beside a control loop: predictions in the background, the loop never waits for them.

    background = BackgroundPredictor(VideoForesight.from_pretrained())
    log = run_loop(observations, background, hz=5, every=5, instruction="open the drawer")
    background.close()  # waits for the last prediction
    log.collect()
    print(log.summary())

A step is one turn of the loop, and the observation made in it; steps are counted from 0.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aid_robot.clip import Foresight
from aid_robot.errors import ConfigError, FrameRateError
from aid_robot.interrupt import stop_requests
from aid_robot.observation import resize_frames, to_frames
from aid_robot.predictor import Predictor

_log = logging.getLogger(__name__)

# Of a tile for which there is no foresight.
_GREY = 236


@dataclass(frozen=True, eq=False)
class Prediction:
    """A foresight, and when it was asked for and made."""

    # Step of the observation that it starts from: of its last given frame.
    step: int
    foresight: Foresight
    # Time that the predictor took.
    seconds: float
    # From the request, which is made right after the observation, to the result.
    age: float


@dataclass(frozen=True, eq=False)
class _Request:
    step: int
    frames: NDArray[np.uint8]  # (K, H, W, 3)
    instruction: str | None
    made_at: float


class BackgroundPredictor:
    """Predict in a thread of its own: one prediction at a time, the newest request next.

    `predictor` is used by that thread alone. `options` go to its `predict`.
    """

    def __init__(self, predictor: Predictor, **options: Any) -> None:
        self.predictor = predictor
        # Requests that were never started, because a newer one came.
        self.replaced = 0
        self.failed = 0
        self.first_error: Exception | None = None
        self._options = options
        self._changed = threading.Condition()
        self._waiting: _Request | None = None
        self._done: list[Prediction] = []
        self._closing = False
        # A daemon, so that a prediction of minutes doesn't keep the program from ending.
        self._thread = threading.Thread(target=self._work, name="prediction", daemon=True)
        self._thread.start()

    def request(self, step: int, frames: NDArray[np.uint8], instruction: str | None) -> None:
        """Ask for a prediction from (K, H, W, 3) frames, which must not be changed afterwards."""
        with self._changed:
            self.replaced += self._waiting is not None
            self._waiting = _Request(step, frames, instruction, time.perf_counter())
            self._changed.notify()

    def results(self) -> list[Prediction]:
        """Take what was finished since the last call, oldest first."""
        with self._changed:
            done, self._done = self._done, []
        return done

    def close(self, timeout: float | None = None) -> bool:
        """Drop what was not started, wait for what was; returns whether it is over."""
        with self._changed:
            self._closing = True
            self.replaced += self._waiting is not None
            self._waiting = None
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                request, self._waiting = self._waiting, None
            if request is None:
                return
            started = time.perf_counter()
            try:
                foresight = self.predictor.predict(
                    request.frames, request.instruction, **self._options
                )
            # Whatever a predictor raises, a robot's loop must go on.
            except Exception as error:
                self._note_failure(request, error)
                continue
            now = time.perf_counter()
            made = Prediction(request.step, foresight, now - started, now - request.made_at)
            with self._changed:
                self._done.append(made)

    def _note_failure(self, request: _Request, error: Exception) -> None:
        with self._changed:
            self.failed += 1
            first = self.first_error is None
            self.first_error = self.first_error or error
        if first:
            _log.warning(
                "the prediction of step %d failed, the loop goes on (more failures are counted, "
                "not shown): %s: %s",
                request.step,
                type(error).__name__,
                error,
            )


class Ticker:
    """Keep a rate by the clock: a late tick makes no later one late."""

    def __init__(self, hz: float) -> None:
        if not (math.isfinite(hz) and hz > 0):
            raise ConfigError(f"hz={hz} must be a positive number of turns a second")
        self.period = 1 / hz
        # Seconds after its time at which each tick came.
        self.lateness: list[float] = []
        # Ticks whose work was not done when the next was due, and ticks that fell out for it.
        self.overruns = 0
        self.skipped = 0
        self._due: float | None = None

    def wait(self) -> None:
        """Sleep until the next tick is due."""
        now = time.perf_counter()
        due = now if self._due is None else self._due
        self.overruns += now > due
        while (left := due - time.perf_counter()) > 0:
            time.sleep(left)
        late = time.perf_counter() - due
        self.lateness.append(late)
        # What is over is left out, not made up for by a burst.
        missed = int(late / self.period)
        self.skipped += missed
        self._due = due + (1 + missed) * self.period


@dataclass
class LoopLog:
    """What a loop saw and foresaw of late, and how it kept its time throughout."""

    background: BackgroundPredictor
    ticker: Ticker
    # Frames a second of the world between two steps, and steps between two predicted frames.
    frame_rate: float
    stride: int
    # Steps that are kept for `save`.
    keep: int
    # (step, frame): the newest `keep` steps, (H, W, 3).
    seen: deque[tuple[int, NDArray[np.uint8]]] = field(default_factory=deque)
    # (step in which it was received, prediction): those that started in the kept steps.
    predictions: deque[tuple[int, Prediction]] = field(default_factory=deque)
    steps: int = 0
    # Steps without a frame, or with the same one as before.
    stale: int = 0
    interrupted: bool = False
    # Seconds that each prediction took, and from its observation to its arrival.
    seconds: list[float] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)

    def see(self, step: int, frame: NDArray[np.uint8]) -> None:
        """Keep a frame, and let go what is too old."""
        self.seen.append((step, frame))
        while len(self.seen) > self.keep:
            self.seen.popleft()
        while self.predictions and self.predictions[0][1].step < self.seen[0][0]:
            self.predictions.popleft()

    def collect(self) -> list[Prediction]:
        """Take what the predictor has finished, and note that it arrived in this step."""
        arrived = self.background.results()
        self.predictions.extend((self.steps, prediction) for prediction in arrived)
        self.seconds.extend(prediction.seconds for prediction in arrived)
        self.ages.extend(prediction.age for prediction in arrived)
        return arrived

    def summary(self) -> str:
        """Describe in a few lines how the loop kept its time."""
        rows = [
            f"{'ms':<34}{'p50':>10}{'p90':>10}{'p99':>10}",
            _percentiles("lateness of a tick", self.ticker.lateness),
            _percentiles("prediction", self.seconds),
            _percentiles("observation to its foresight", self.ages),
        ]
        background, ticker = self.background, self.ticker
        rows += [
            f"{self.steps} steps at {1 / ticker.period:g} Hz: {ticker.overruns} ran over, "
            f"{ticker.skipped} fell out for it, {self.stale} with a stale frame",
            f"{len(self.seconds)} predictions made, {background.replaced} requests dropped for a "
            f"newer one or the end, {background.failed} failed",
        ]
        if background.first_error is not None:
            rows.append(f"the first failure: {background.first_error}")
        return "\n".join(rows)

    def save(self, folder: Path) -> list[Path]:
        """Save the kept steps: `step_<n>.png` for each prediction, and `loop.mp4`.

        A strip has what really happened above its foresight. The video has, at every step, what
        the camera saw beside what the newest foresight then at hand showed for that step; grey
        where there was none yet, or it had come to its end.
        """
        folder.mkdir(parents=True, exist_ok=True)
        frames = dict(self.seen)
        paths = []
        for _, prediction in self.predictions:
            path = folder / f"step_{prediction.step:05d}.png"
            truth = self._truth(prediction, frames)
            paths.append(prediction.foresight.save(path, truth=truth))
        if self.predictions and len(self.seen) > 1:
            paths.append(self._save_video(folder / "loop.mp4"))
        return paths

    def _truth(
        self, prediction: Prediction, frames: dict[int, NDArray[np.uint8]]
    ) -> NDArray[np.uint8] | None:
        """Take the frames at the foresight's times, up to the first that was not seen."""
        foresight = prediction.foresight
        first = prediction.step - (foresight.num_conditioning_frames - 1) * self.stride
        steps = range(first, first + len(foresight) * self.stride, self.stride)
        real = list(itertools.takewhile(lambda step: step in frames, steps))
        height, width = foresight.frames.shape[2:4]
        shown = [resize_frames(frames[step], (height, width)) for step in real]
        return np.stack(shown) if shown else None

    def _save_video(self, path: Path) -> Path:
        pending = deque(self.predictions)
        current = pending[0][1]
        arrived = False
        height, width = current.foresight.frames.shape[2:4]
        nothing = np.full((height, width, 3), _GREY, np.uint8)
        expected = []
        for step, _ in self.seen:
            while pending and pending[0][0] <= step:
                current, arrived = pending.popleft()[1], True
            clip = current.foresight
            index = clip.num_conditioning_frames - 1 + (step - current.step) // self.stride
            known = arrived and index < len(clip)
            expected.append(clip.frames[0, index] if known else nothing)
        joined = Foresight(
            np.stack(expected)[None],
            fps=self.frame_rate,
            instruction=current.foresight.instruction,
            num_conditioning_frames=1,
        )
        seen = [resize_frames(frame, (height, width)) for _, frame in self.seen]
        return joined.save(path, truth=np.stack(seen))


def run_loop(
    observations: Iterable[Any],
    background: BackgroundPredictor,
    *,
    hz: float,
    every: int,
    frame_rate: float | None = None,
    instruction: str | None = None,
    camera: str | None = None,
    max_steps: int | None = None,
    keep: int = 300,
    on_prediction: Callable[[int, Prediction], None] | None = None,
) -> LoopLog:
    """Take an observation a tick and ask for a prediction every few; end with them, or by Ctrl-C.

    Args:
        observations: Of any layout that `to_frames` knows; None where there is no new one.
        background: Who predicts; left open.
        hz: Turns a second.
        every: Steps between two requests.
        frame_rate: Frames a second of the world between two observations, where it is not `hz`, as
            in a recording that is played faster. A whole multiple of the predictor's.
        instruction: None takes what each observation carries.
        camera: Of observations that have several.
        max_steps: Where to end; None goes on as long as there are observations.
        keep: Steps whose frames and predictions are kept for `LoopLog.save`.
        on_prediction: Called in the loop with the step and each prediction that arrives in it.

    Raises:
        ObservationError: An observation has no known layout; FrameRateError, ConfigError.
    """
    if every < 1 or keep < 1:
        raise ConfigError(f"every={every} and keep={keep} must be at least 1")
    rate = frame_rate or hz
    stride = steps_between_frames(rate, background.predictor.fps)
    count = background.predictor.num_conditioning_frames
    history: deque[NDArray[np.uint8]] = deque(maxlen=(count - 1) * stride + 1)
    log = LoopLog(background, Ticker(hz), rate, stride, keep)
    source = iter(observations)
    end = object()

    try:
        # Cut off in the middle of a tick, a lock could stay taken for ever.
        with stop_requests() as stop:
            while max_steps is None or log.steps < max_steps:
                log.ticker.wait()
                log.interrupted = stop()
                obs = end if log.interrupted else next(source, end)
                if obs is end:
                    break
                said = None
                if obs is not None:
                    found = to_frames(obs, camera=camera)
                    said = found.instruction
                    log.stale += bool(history) and np.array_equal(found.frames[0], history[-1])
                    history.append(found.frames[0])
                else:
                    log.stale += 1
                    # Time goes on, the picture stands still.
                    history.extend(list(history)[-1:])
                if history:
                    log.see(log.steps, history[-1])
                if len(history) == history.maxlen and log.steps % every == 0:
                    frames = np.stack(list(history)[::stride])
                    background.request(log.steps, frames, instruction or said)
                for prediction in log.collect():
                    if on_prediction is not None:
                        on_prediction(log.steps, prediction)
                log.steps += 1
    except KeyboardInterrupt:  # asked for twice, or from within what is called here
        log.interrupted = True
    return log


def steps_between_frames(rate: float, fps: float) -> int:
    """Return how many steps of a loop at `rate` there are between two frames of a predictor."""
    stride = round(rate / fps)
    if stride < 1 or abs(rate - stride * fps) > 1e-3 * fps:
        raise FrameRateError(
            f"the loop sees {rate:g} frames a second and the model predicts {fps:g}: expected the "
            f"same or a whole multiple, such as {max(1, stride) * fps:g}"
        )
    return stride


def _percentiles(name: str, seconds: list[float]) -> str:
    values = np.percentile(seconds, (50, 90, 99)) * 1e3 if seconds else (float("nan"),) * 3
    shown = "".join(f"{value:>10.1f}" if seconds else f"{'-':>10}" for value in values)
    return f"{name + f' ({len(seconds)})':<34}{shown}"
