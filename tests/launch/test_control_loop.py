"""The control loop runs as a person starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aid_robot.data import VideoFrames
from tests.recordings import write_irasim

REPOSITORY = Path(__file__).parents[2]

ROBOT = """
import numpy as np

class Client:
    value = 0

    def get_observation(self):
        self.value += 1
        if self.value % 3 == 0:
            return None
        return {"full_image": np.full((48, 64, 3), self.value % 256, np.uint8)}

def connect():
    return Client()
"""


def start(folder: Path, *args: object) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, REPOSITORY / "launch" / "control_loop.py", *map(str, args)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_recording_plays_to_its_end(tiny_model_dir: Path, tmp_path: Path) -> None:
    recording = write_irasim(tmp_path / "recording", frames=12)
    process = start(
        *(tmp_path, f"{recording}#1", "--model", tiny_model_dir, "--steps", 1),
        *("--every", 4, "--hz", 10, "--out", "out"),
    )
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors == ""
    assert "12 steps at 10 Hz" in output
    assert "lateness of a tick" in output
    saved = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"step_00000.png", "loop.mp4"} <= saved
    assert len(VideoFrames(tmp_path / "out" / "loop.mp4")) == 12


def test_simulated_arm_does_as_told(tiny_model_dir: Path, tmp_path: Path) -> None:
    process = start(
        *(tmp_path, "--env", "aid_robot/Tabletop-v0", "--instruction", "open the drawer"),
        *("--model", tiny_model_dir, "--steps", 1, "--hz", 10),
    )
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "open the drawer" in output
    assert "the task is done" in output
    assert "0 failed" in output
    assert (tmp_path / "loop" / "step_00000.png").exists()


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal")
def test_interrupted_live_loop_still_saves(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "my_robot.py").write_text(ROBOT)
    process = start(
        *(tmp_path, "--source", "my_robot:connect", "--hz", 20, "--instruction", "open it"),
        *("--model", tiny_model_dir, "--steps", 1),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "foresight of step" in line:
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "with a stale frame" in output
    assert "0 failed" in output
    assert (tmp_path / "loop" / "loop.mp4").exists()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    process = start(tmp_path, "--source", "no_such_robot:connect", "--hz", 5)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.startswith("control_loop: error: --source no_such_robot:connect")
    assert errors.count("\n") == 1


def test_planner_moves_the_simulated_arm(tiny_model_dir: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 32, 3), 120, np.uint8)).save(tmp_path / "goal.png")
    process = start(
        *(tmp_path, "--env", "aid_robot/Tabletop-v0", "--plan", "do nothing"),
        *("--goal-image", "goal.png", "--scorer", "image:latent"),
        *("--model", tiny_model_dir, "--steps", 1, "--max-steps", 4, "--every", 3),
    )
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "step 0: chose the only candidate, 'do nothing'" in output
    assert "step 3: chose" in output
    assert (tmp_path / "loop" / "step_00003.png").exists()
    assert len(VideoFrames(tmp_path / "loop" / "plan.mp4")) == 5


def test_plans_are_ranked_beside_a_recording(tiny_model_dir: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 32, 3), 120, np.uint8)).save(tmp_path / "goal.png")
    recording = write_irasim(tmp_path / "recording", frames=8)
    process = start(
        *(tmp_path, f"{recording}#1", "--model", tiny_model_dir, "--steps", 1, "--every", 4),
        *("--plan", "open the drawer", "lift the can", "--goal-image", "goal.png"),
        *("--scorer", "image:latent", "--hz", 5),
    )
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "0 failed" in output
    assert "chose '" in output
    assert (tmp_path / "loop" / "step_00000.png").exists()
