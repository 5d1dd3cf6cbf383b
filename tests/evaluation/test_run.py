"""An evaluation that is stopped, divided, damaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pytest

from aid_robot.clip import Foresight
from aid_robot.errors import (
    ConfigError,
    EvaluationError,
    FrameCountError,
    FrameRateError,
    MetricError,
)
from aid_robot.evaluation.results import CLIPS, RESULTS, RunFolder
from aid_robot.evaluation.run import evaluate, write_figures
from aid_robot.predictor import PredictOptions, Request
from tests.evaluation.worlds import (
    BRIEF,
    PROTOCOL,
    Obedient,
    copying,
    make_episodes,
    make_store,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("run") / "s.zarr", make_episodes(4))


def judged(store: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    evaluate([store], {"ours": Obedient(3)}, PROTOCOL, folder, **{"metrics": ("psnr",), **changes})
    return RunFolder.open(folder).results()


def test_a_run_goes_on_with_what_is_left(store: Path, tmp_path: Path) -> None:
    whole = judged(store, tmp_path / "whole")
    lines = (tmp_path / "whole" / CLIPS).read_bytes().splitlines(keepends=True)
    assert len(lines) == 16
    # As a kill may leave it: two tasks done, and a line that was being written.
    torn = tmp_path / "torn"
    judged(store, torn)
    (torn / CLIPS).write_bytes(b"".join(lines[:8]) + lines[8][:100])
    (torn / RESULTS).unlink()
    assert judged(store, torn) == whole
    assert (torn / CLIPS).read_bytes() == (tmp_path / "whole" / CLIPS).read_bytes()


def test_nothing_is_predicted_twice(store: Path, tmp_path: Path) -> None:
    judged(store, tmp_path / "run")
    again = Obedient(3)
    evaluate([store], {"ours": again}, PROTOCOL, tmp_path / "run", metrics=("psnr",))
    assert again.asked == []


def test_another_plan_is_refused(store: Path, tmp_path: Path) -> None:
    judged(store, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"scales was \[\] and is \[2.0\]"):
        judged(store, tmp_path / "run", scales=(2.0,))
    with pytest.raises(ConfigError, match=r"protocol\.seed was 0 and is 1"):
        evaluate(
            [store], {"ours": Obedient(3)}, PROTOCOL.replace(seed=1), tmp_path / "run",
            metrics=("psnr",),
        )  # fmt: skip


class Blackout(Obedient):
    """Has no answer to one start."""

    def predict_many(
        self,
        requests: Any,
        *,
        num_samples: int = 1,
        **options: Unpack[PredictOptions],
    ) -> list[Foresight]:
        found = super().predict_many(requests, num_samples=num_samples, **options)
        return [replace(f, frames=f.frames[:, :-1]) for f in found]


def test_predictors_that_do_not_fit_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(FrameCountError, match="num_frames=4"):
        evaluate([store], {"c": copying()}, PROTOCOL.replace(num_frames=5), tmp_path / "a",
                 metrics=("psnr",))  # fmt: skip
    with pytest.raises(FrameRateError, match="fps=5"):
        evaluate([store], {"c": copying()}, PROTOCOL.replace(fps=2.5), tmp_path / "b",
                 metrics=("psnr",))  # fmt: skip
    with pytest.raises(MetricError, match="expected 1 samples of 4 frames"):
        evaluate([store], {"c": Blackout()}, PROTOCOL, tmp_path / "c", metrics=("psnr",))


def test_an_object_stays_in_its_process(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="other processes can't make"):
        evaluate([store], {"c": copying()}, PROTOCOL, tmp_path, metrics=("psnr",), devices=2)


def test_a_clip_that_can_not_be_read_is_named(store: Path, tmp_path: Path) -> None:
    whole = judged(store, tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    verdicts = list(folder.verdicts())
    bad = {"clip": verdicts[0]["clip"], "error": "frame 2 is damaged"}
    text = "".join(f"{json.dumps(v)}\n" for v in [*verdicts, bad])
    (folder.path / CLIPS).write_text(text)
    summary = write_figures(folder)
    assert dict(summary.errors) == {bad["clip"]: "frame 2 is damaged"}
    assert summary.figures[0].clips == 15
    assert whole["figures"][0]["clips"] == 16
    assert "frame 2 is damaged" in (folder.path / "report.html").read_text()
    # It is tried again, and can be read now.
    assert judged(store, folder.path) == whole


def test_a_damaged_line_is_named(store: Path, tmp_path: Path) -> None:
    judged(store, tmp_path / "run")
    path = tmp_path / "run" / CLIPS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "}{\n", *lines[1:]]))
    with pytest.raises(ValueError, match="line 2"):
        judged(store, tmp_path / "run")


def test_one_run_is_of_one_way_of_sampling(store: Path, tmp_path: Path) -> None:
    judged(store, tmp_path / "run")
    path = tmp_path / "run" / CLIPS
    text = path.read_text()
    path.write_text(text.replace('{"noise": 3}', '{"noise": 4}', 1))
    with pytest.raises(EvaluationError, match="one kind of device"):
        write_figures(RunFolder.open(tmp_path / "run"))


def test_samples_are_averaged(store: Path, tmp_path: Path) -> None:
    summary = evaluate(
        [store], {"ours": Obedient(3)}, PROTOCOL.replace(samples=3), tmp_path, metrics=("psnr",)
    )
    figure = summary.find("ours", "psnr")
    assert figure is not None
    assert np.isfinite(figure.value)
    assert "3 a clip" in str(figure.block)


def test_too_few_clips_for_a_distance_of_sets(store: Path, tmp_path: Path) -> None:
    if not os.environ.get("AID_ROBOT_WEIGHTS"):
        pytest.skip("I3D: set AID_ROBOT_WEIGHTS to its folder")
    with pytest.raises(MetricError, match="needs 128 clips and there are 16"):
        evaluate([store], {"c": copying()}, PROTOCOL, tmp_path, metrics=("fvd",))
    assert not (tmp_path / CLIPS).exists()


def figures(folder: Path) -> list[dict[str, Any]]:
    return list(RunFolder.open(folder).results()["figures"])


@pytest.fixture(scope="module")
def whole(store: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's evaluation that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    evaluate([store], {"model": str(tiny_model_dir)}, PROTOCOL, folder, **BRIEF)
    return folder


def test_a_killed_run_ends_with_the_same_figures(
    store: Path, whole: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    code = "from tests.evaluation.kill_run import main; main()"
    command = [sys.executable, "-c", code, str(store), str(tiny_model_dir), str(tmp_path)]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and run.poll() is None:
        if (tmp_path / CLIPS).exists() and (tmp_path / CLIPS).stat().st_size:
            break
        time.sleep(0.05)
    assert run.poll() is None, run.communicate()[1].decode()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert 0 < len(RunFolder.open(tmp_path).done()) < 16
    evaluate([store], {"model": str(tiny_model_dir)}, PROTOCOL, tmp_path, **BRIEF)
    assert figures(tmp_path) == figures(whole)


def test_two_processes_give_the_same_figures(
    store: Path, whole: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    model = {"model": str(tiny_model_dir)}
    evaluate([store], model, PROTOCOL, tmp_path, **BRIEF, devices=2)
    assert figures(tmp_path) == figures(whole)


def test_requests_carry_what_a_predictor_needs(store: Path, tmp_path: Path) -> None:
    seen: list[Request] = []

    class Watching(Obedient):
        def predict_many(
            self, requests: Any, *, num_samples: int = 1, **options: Unpack[PredictOptions]
        ) -> list[Foresight]:
            seen.extend(requests)
            return super().predict_many(requests, num_samples=num_samples, **options)

    evaluate([store], {"w": Watching()}, PROTOCOL, tmp_path, metrics=("psnr",), asked=())
    assert len(seen) == 16
    assert all(request.obs.shape == (1, 32, 32, 3) for request in seen)
    assert all(request.instruction and request.seed is not None for request in seen)
