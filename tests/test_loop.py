"""A control loop keeps its rate whatever its predictor does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aid_robot.clip import Foresight
from aid_robot.data import VideoFrames
from aid_robot.errors import ConfigError, FrameRateError
from aid_robot.loop import BackgroundPredictor, LoopLog, Ticker, run_loop
from aid_robot.predictor import Predictor, Request

HEIGHT, WIDTH = 16, 24


class SlowPredictor:
    """Repeats the last given frame, after a while or when let; remembers what it was given."""

    fps = 5.0
    num_frames = 6

    def __init__(self, seconds: float = 0.0, count: int = 1) -> None:
        self.seconds, self.num_conditioning_frames = seconds, count
        self.go = threading.Event()
        self.go.set()
        self.given: list[tuple[NDArray[np.uint8], str | None]] = []

    def predict(
        self,
        obs: Any,
        instruction: str | None = None,
        *,
        num_samples: int = 1,
        seed: int | None = None,
        **options: Any,
    ) -> Foresight:
        self.given.append((obs.copy(), instruction))
        assert self.go.wait(10)
        time.sleep(self.seconds)
        missing = self.num_frames - self.num_conditioning_frames
        frames = np.concatenate([obs, obs[-1:].repeat(missing, axis=0)])
        return Foresight(
            np.stack([frames] * num_samples), self.fps, str(instruction), len(obs), seed=seed or 0
        )

    def predict_many(
        self, requests: Sequence[Request], *, num_samples: int = 1, **options: Any
    ) -> list[Foresight]:
        return [self.predict(r.obs, r.instruction, num_samples=num_samples) for r in requests]


class BrokenPredictor(SlowPredictor):
    def predict(self, obs: Any, instruction: str | None = None, **options: Any) -> Foresight:
        raise RuntimeError("out of memory")


def frame(value: int) -> NDArray[np.uint8]:
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


def run(predictor: SlowPredictor, observations: Any, **options: Any) -> LoopLog:
    """Run a loop to its end, and wait for the last prediction."""
    background = BackgroundPredictor(predictor)
    settings = {"hz": 200, "every": 1, "frame_rate": 5, "instruction": "wait", **options}
    log = run_loop(observations, background, **settings)
    assert background.close(timeout=10)
    log.collect()
    return log


def test_fake_speaks_the_protocol() -> None:
    assert isinstance(SlowPredictor(), Predictor)


def test_loop_keeps_its_rate_beside_a_slow_predictor() -> None:
    background = BackgroundPredictor(SlowPredictor(seconds=0.3))
    observations = (frame(value) for value in range(50))
    started = time.perf_counter()
    log = run_loop(observations, background, hz=50, every=5, frame_rate=5, instruction="wait")
    elapsed = time.perf_counter() - started
    assert background.close(timeout=10)
    log.collect()
    # Ten requests, each awaited, would take three seconds.
    assert 0.9 < elapsed < 1.8
    assert log.steps == 50
    assert np.median(log.ticker.lateness) < 0.01
    assert len(log.seconds) + background.replaced == 10
    assert background.replaced >= 4
    assert min(log.seconds) >= 0.3
    assert all(age >= took for age, took in zip(log.ages, log.seconds, strict=True))


def test_newest_request_wins_and_results_carry_the_step_of_their_observation() -> None:
    predictor = SlowPredictor()
    predictor.go.clear()
    background = BackgroundPredictor(predictor, num_samples=2, seed=3)
    background.request(0, frame(0)[None], "wait")
    while not predictor.given:
        time.sleep(0.001)
    for step in (5, 10, 15):
        background.request(step, frame(step)[None], "wait")
    assert background.results() == []
    predictor.go.set()
    made = []
    while len(made) < 2:
        made += background.results()
        time.sleep(0.001)
    assert [prediction.step for prediction in made] == [0, 15]
    for prediction in made:
        assert (prediction.foresight.frames == prediction.step).all()
        assert prediction.foresight.num_samples == 2
        assert prediction.foresight.seed == 3
    assert background.replaced == 2
    assert background.close(timeout=10)


def test_close_drops_what_was_not_started_and_does_not_wait_for_ever() -> None:
    predictor = SlowPredictor()
    predictor.go.clear()
    background = BackgroundPredictor(predictor)
    background.request(0, frame(0)[None], "wait")
    while not predictor.given:
        time.sleep(0.001)
    background.request(1, frame(1)[None], "wait")
    assert not background.close(timeout=0.05)
    predictor.go.set()
    assert background.close(timeout=10)
    assert [prediction.step for prediction in background.results()] == [0]
    assert background.replaced == 1


def test_failing_predictor_is_reported_once_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        log = run(BrokenPredictor(), [frame(value) for value in range(20)], hz=100)
    assert log.steps == 20
    assert log.background.failed + log.background.replaced == 20
    assert log.background.failed > 1
    assert [record.message for record in caplog.records if "out of memory" in record.message] == [
        caplog.records[0].message
    ]
    assert f"{log.background.failed} failed" in log.summary()
    assert "out of memory" in log.summary()


def test_stale_frames_are_counted() -> None:
    same = frame(7)
    observations = [None, frame(1), same, same.copy(), None, frame(8), frame(7)]
    log = run(SlowPredictor(), observations)
    assert log.steps == 7
    # Before the first frame, the repeated one, and the missing one after it.
    assert log.stale == 3
    assert [int(seen[0, 0, 0]) for _, seen in log.seen] == [1, 7, 7, 7, 8, 7]


def test_history_is_spaced_as_the_models_frames() -> None:
    predictor = SlowPredictor(count=3)
    run(predictor, [frame(value) for value in range(9)], frame_rate=10, hz=50)
    assert predictor.given
    for given, _ in predictor.given:
        values = given[:, 0, 0, 0].tolist()
        assert values == [values[2] - 4, values[2] - 2, values[2]]
    assert min(given[0, 0, 0, 0] for given, _ in predictor.given) == 0


def test_observations_own_instruction_is_used_where_there_is_no_other() -> None:
    predictor = SlowPredictor()
    observations = [{"image_0": frame(1), "instruction": "open the drawer"}]
    run(predictor, observations, instruction=None)
    run(predictor, observations)
    assert [instruction for _, instruction in predictor.given] == ["open the drawer", "wait"]


def test_camera_that_reuses_its_buffer_changes_nothing_kept() -> None:
    buffer = frame(0)

    def camera() -> Iterator[NDArray[np.uint8]]:
        for value in range(6):
            buffer[:] = value
            yield buffer

    log = run(SlowPredictor(), camera())
    assert [int(seen[0, 0, 0]) for _, seen in log.seen] == list(range(6))
    assert log.stale == 0
    for _, prediction in log.predictions:
        assert (prediction.foresight.frames == prediction.step).all()


def test_interrupt_ends_the_loop_and_keeps_what_was_seen(tmp_path: Path) -> None:
    def until_interrupted() -> Iterator[NDArray[np.uint8]]:
        yield from (frame(10 * value) for value in range(5))
        raise KeyboardInterrupt

    log = run(SlowPredictor(), until_interrupted(), hz=50)
    assert log.interrupted
    assert log.steps == 5
    assert (tmp_path / "loop.mp4") in log.save(tmp_path)


def test_saved_files_show_truth_beside_foresight(tmp_path: Path) -> None:
    seen: list[int] = []
    log = run(
        SlowPredictor(seconds=0.01),
        [frame(20 * value) for value in range(10)],
        hz=20,
        every=4,
        on_prediction=lambda step, prediction: seen.append(prediction.step),
    )
    paths = log.save(tmp_path / "out")
    assert [path.name for path in paths] == [
        *("step_00000.png", "step_00004.png", "step_00008.png"),
        "loop.mp4",
    ]
    assert seen == [0, 4, 8]
    video = VideoFrames(paths[-1])
    assert len(video) == 10
    with Image.open(paths[0]) as strip:
        picture = np.asarray(strip.convert("RGB")).astype(int)
    # The strip's last column is frame 5: in the truth above it is brighter than in the foresight.
    column = picture[:, -30]
    assert (abs(column - 100).max(axis=-1) < 3).sum() > 50
    assert (column.max(axis=-1) < 3).sum() > 50
    # The video's left tile is what was seen, its right what the newest foresight then at hand
    # showed: none in step 0, that of step 0 in step 4, that of step 4 (which came later) in step 5.
    for step, foreseen in ((0, 236), (4, 0), (5, 80)):
        row = video[step].astype(int)[-20]
        for value in (20 * step, foreseen):
            assert (abs(row - value).max(axis=-1) < 6).sum() > 50, (step, value)


def test_only_the_newest_steps_are_kept(tmp_path: Path) -> None:
    log = run(SlowPredictor(), [frame(value) for value in range(30)], keep=8)
    assert [step for step, _ in log.seen] == list(range(22, 30))
    assert min(prediction.step for _, prediction in log.predictions) >= 22
    assert len(log.seconds) > len(log.predictions)
    assert len(VideoFrames(log.save(tmp_path)[-1])) == 8


def test_nothing_to_save_without_a_prediction(tmp_path: Path) -> None:
    log = run(SlowPredictor(count=3), [frame(1)])
    assert log.save(tmp_path / "out") == []
    assert "0 predictions made" in log.summary()


def test_late_tick_is_counted_and_not_made_up_for() -> None:
    ticker = Ticker(hz=20)
    ticker.wait()
    started = time.perf_counter()
    time.sleep(0.17)  # past the ticks at 0.05, 0.10 and 0.15
    ticker.wait()
    ticker.wait()
    assert time.perf_counter() - started >= 0.195
    assert ticker.overruns == 1
    assert ticker.skipped == 2
    assert ticker.lateness[1] >= 0.115


def test_wrong_rates_are_refused() -> None:
    background = BackgroundPredictor(SlowPredictor())
    with pytest.raises(FrameRateError, match="such as 5"):
        run_loop([], background, hz=7, every=1)
    with pytest.raises(FrameRateError, match="whole multiple"):
        run_loop([], background, hz=10, frame_rate=2, every=1)
    with pytest.raises(ConfigError, match="hz=0"):
        run_loop([], background, hz=0, frame_rate=5, every=1)
    with pytest.raises(ConfigError, match="every=0"):
        run_loop([], background, hz=5, every=0)
    background.close()
