"""The loop: stops, states, full disks, losses that aren't finite, and parts of a step."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aid_robot.errors import CheckpointError, ConfigError, TrainingError
from aid_robot.training.log import RunLog
from aid_robot.training.noise import Noise
from aid_robot.training.samples import Batch
from aid_robot.training.stages import PriorStage
from aid_robot.training.state import read_state, state_files, write_state
from tests.training.tiny_stage import CONFIG, tiny_clips, tiny_stage, tiny_trainer


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[n].equal(second[n]) for n in first)


def test_parts_of_a_step_add_up_to_it(tmp_path: Path) -> None:
    whole = tiny_trainer(tmp_path / "a", tiny_stage(batch_size=4, steps=2)).run()
    parts = tiny_trainer(tmp_path / "b", tiny_stage(batch_size=4, steps=2, accumulation=2)).run()
    lines = [[json.loads(line)["loss"] for line in (tmp_path / n / "log.jsonl").open()]
             for n in "ab"]  # fmt: skip
    assert lines[0] == pytest.approx(lines[1], rel=1e-4)
    assert whole.keys() == parts.keys()


def test_a_stop_request_saves_and_the_run_goes_on(tmp_path: Path) -> None:
    whole = tiny_trainer(tmp_path / "a", tiny_stage(steps=3)).run()

    class Stopped(PriorStage):
        def loss(self, batch: Batch, noise: Noise) -> Tensor:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(batch, noise)

    stage = tiny_stage(steps=3)
    stopped = Stopped(stage.model, stage.config, stage.states)
    with pytest.raises(KeyboardInterrupt):
        tiny_trainer(tmp_path / "b", stopped).run()
    assert [path.name for path in state_files(tmp_path / "b")] == ["state-00000001.safetensors"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert equal(tiny_trainer(tmp_path / "b", tiny_stage(steps=3)).run(), whole)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, tiny_stage(steps=1)).run()
    tiny_trainer(tmp_path, tiny_stage(steps=1, log_every=9))
    with pytest.raises(CheckpointError, match=r"config.learning_rate 0.001 -> 0.1"):
        tiny_trainer(tmp_path, tiny_stage(steps=1, learning_rate=0.1))
    with pytest.raises(CheckpointError, match="seed 0 -> 1"):
        tiny_trainer(tmp_path, tiny_stage(steps=1), seed=1)
    with pytest.raises(CheckpointError, match=r"clips '[0-9a-f]+' -> "):
        tiny_trainer(tmp_path, tiny_stage(steps=1), clips=tiny_clips(count=3))


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path) -> None:
    whole = tiny_trainer(tmp_path / "a", tiny_stage(steps=3)).run()
    tiny_trainer(tmp_path / "b", tiny_stage(steps=3, save_every_minutes=0)).run()
    states = state_files(tmp_path / "b")
    assert [path.name for path in states] == [
        "state-00000002.safetensors",
        "state-00000003.safetensors",
    ]
    states[-1].write_bytes(states[-1].read_bytes()[:5000])
    with pytest.warns(UserWarning, match="state-00000003.*is damaged.*going on from step 2"):
        trainer = tiny_trainer(tmp_path / "b", tiny_stage(steps=3))
    assert equal(trainer.run(), whole)
    for path in state_files(tmp_path / "b"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="can't be gone on with"):
        tiny_trainer(tmp_path / "b", tiny_stage(steps=3))


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path: Path) -> None:
    class Broken(PriorStage):
        steps = 0

        def loss(self, batch: Batch, noise: Noise) -> Tensor:
            self.steps += 1
            found = super().loss(batch, noise)
            return found * float("nan") if self.steps == 3 else found

    stage = tiny_stage(save_every_minutes=0, log_every=4)
    broken = Broken(stage.model, stage.config, stage.states)
    message = r"the loss of step 2 is nan; state-00000002.* is the last good.*lower learning_rate"
    with pytest.raises(TrainingError, match=message):
        tiny_trainer(tmp_path, broken).run()
    found = read_state(tmp_path)
    assert found is not None
    assert all(tensor.isfinite().all() for tensor in found[0].values())


def test_a_disk_that_fills_loses_nothing(tmp_path: Path) -> None:
    code = f"""
import resource, signal, sys
from pathlib import Path
import torch
from aid_robot.errors import TrainingError
from aid_robot.training.state import write_state
folder = Path({str(tmp_path)!r})
write_state(folder, 1, {{"a": torch.ones(10)}}, {{"step": 1}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_state(folder, 2, {{"a": torch.ones(100000)}}, {{"step": 2}})
except TrainingError as error:
    print(error)
"""
    assert resource.RLIMIT_FSIZE is not None
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "state-00000001.safetensors is whole: make room and run the same" in shown.stdout
    found = read_state(tmp_path)
    assert found is not None
    assert found[1] == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000001.safetensors"]


def test_two_states_are_kept(tmp_path: Path) -> None:
    for step in range(1, 5):
        write_state(tmp_path, step, {"a": torch.full((2,), float(step))}, {"step": step})
    assert [path.name[6:14] for path in state_files(tmp_path)] == ["00000003", "00000004"]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    class Two:
        """Stands for an accelerator of three processes; the check comes before any of them."""

        num_processes, device = 3, torch.device("cpu")

    from aid_robot.training.trainer import Trainer

    stage = tiny_stage()
    accelerator: Any = Two()
    with pytest.raises(ConfigError, match="batch_size=2 can't be shared by 3 processes"):
        Trainer(stage, tiny_clips(), stage.config, tmp_path, accelerator)


def test_minutes_end_a_stage_and_validation_changes_nothing(tmp_path: Path) -> None:
    held_out = tiny_clips().choose(2)
    options = {"validate_every": 1, "validation_predictions": 1, "steps": 2}
    judged = tiny_trainer(tmp_path / "a", tiny_stage(**options), held_out=held_out)
    plain = tiny_trainer(tmp_path / "b", tiny_stage(steps=2))
    assert equal(judged.run(), plain.run())
    assert len(list((tmp_path / "a" / "samples").glob("*.png"))) == 2
    short = tiny_trainer(tmp_path / "c", tiny_stage(steps=None, minutes=1e-4))
    short.run()
    assert short.step == 1


def test_the_log_goes_on_where_the_run_does_and_warns_of_jumps(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0, None, 4, quiet=True)
    for step in range(1, 8):
        assert log.loss(step, {"loss": 1.0}) is None
    warning = log.loss(8, {"loss": 9.0})
    assert warning is not None
    assert "at step 8 the loss jumped to 9, 1 was usual" in warning
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # killed
    RunLog(tmp_path, 5, None, 4, quiet=True).write(6, {"loss": 2.0})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [(line["step"], line["loss"]) for line in lines] == [
        *((step, 1.0) for step in range(1, 6)),
        (6, 2.0),
    ]


def test_gradient_checkpointing_and_a_thread_change_nothing(tmp_path: Path) -> None:
    plain = tiny_trainer(tmp_path / "a", tiny_stage(steps=1)).run()
    found: dict[str, Tensor] = {}

    def train() -> None:
        stage = tiny_stage(steps=1, gradient_checkpointing=True)
        found.update(tiny_trainer(tmp_path / "b", stage).run())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
    assert CONFIG["steps"] == 4
