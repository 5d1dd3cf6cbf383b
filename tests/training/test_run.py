"""Whole runs: what they leave, that a kill changes nothing, and that processes share a step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from aid_robot import VideoForesight
from aid_robot.data.clips import Split
from aid_robot.data.store import EpisodeStore
from aid_robot.errors import CheckpointError
from aid_robot.training.data import read_split
from aid_robot.training.recipes import load_recipe
from aid_robot.training.run import train
from tests.training.conftest import SMALLER, DebugRun

LIMIT = 240


def command(run: DebugRun, folder: Path, *changes: str) -> list[str]:
    settings = [f"data.store={run.store}", *SMALLER, *changes]
    options = [part for text in settings for part in ("--set", text)]
    return ["aid_robot.cli", "train", "debug", "-o", str(folder), "--device", "cpu", *options]


def losses(folder: Path, stage: str) -> list[float]:
    lines = (folder / stage / "log.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def weights_of(model: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*.safetensors")
    }


def test_a_run_ends_in_a_model_that_predicts(debug_run: DebugRun) -> None:
    model = VideoForesight.from_pretrained(debug_run.model, device="cpu")
    foresight = model.predict(np.zeros((32, 32, 3), np.uint8), "push the red cube to the left")
    assert foresight.frames.shape == (1, 8, 32, 32, 3)


def test_a_run_keeps_its_prior_its_log_and_its_samples(debug_run: DebugRun) -> None:
    folder = debug_run.folder
    name = "unet/diffusion_pytorch_model.safetensors"
    saved, prior = load_file(debug_run.model / name), load_file(folder / "prior/model" / name)
    assert all(saved[key].equal(prior[key]) for key in prior)
    assert len(losses(folder, "prior")) == 3
    assert list((folder / "aid" / "samples").glob("*.png"))
    lines = (folder / "aid" / "log.jsonl").read_text()
    assert "held_out_loss_sigma_1" in lines
    assert "held_out_psnr_copying" in lines


def test_the_model_names_what_it_has_never_seen(debug_run: DebugRun) -> None:
    store = EpisodeStore.open(debug_run.store)
    content = json.loads((debug_run.model / "aid" / "split.json").read_text())
    assert 0 < len(content["held_out"]) < len(store)
    assert set(content["held_out"]) == set(Split(0.3).held_out(store.records))
    split = read_split(debug_run.model)
    assert split is not None
    assert split.held_out(store.records) == set(content["held_out"])


def test_the_towers_go_on_from_a_run_with_the_heads_that_it_trained(
    debug_run: DebugRun, tmp_path: Path
) -> None:
    """One step at a rate of nearly zero leaves the head where the stage before had it."""
    changes = [
        f"data.store={debug_run.store}",
        f"model.start={debug_run.folder / 'clip' / 'model'}",
        "stages=['ground', 'clip']",
        *(
            f"{stage}.{what}"
            for stage in ("ground", "clip")
            for what in ("steps=1", "batch_size=2", "learning_rate=1e-12")
        ),
    ]
    train(load_recipe("bundled_more", changes), tmp_path / "more", device="cpu")
    before = load_file(debug_run.folder / "clip" / "extras.safetensors")
    after = load_file(tmp_path / "more" / "clip" / "extras.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.allclose(after[name], atol=1e-6), name


def test_a_finished_run_is_not_run_again(debug_run: DebugRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in debug_run.folder.rglob("*.safetensors")}
    assert train(debug_run.recipe(), debug_run.folder, device="cpu") == debug_run.model
    assert before == {p: p.stat().st_mtime_ns for p in debug_run.folder.rglob("*.safetensors")}
    with pytest.raises(CheckpointError, match=r"config.learning_rate 0.002 -> 0.5"):
        train(debug_run.recipe("vae.learning_rate=0.5"), debug_run.folder, device="cpu")


def test_a_kill_changes_nothing(debug_run: DebugRun, tmp_path: Path) -> None:
    """Killed amid the prior, and run again: every weight is that of a run that wasn't stopped."""
    folder = tmp_path / "run"
    for stage in ("vae", "ground", "clip", "draft"):
        shutil.copytree(debug_run.folder / stage, folder / stage)
    process = subprocess.Popen([sys.executable, "-m", *command(debug_run, folder)])
    began = time.monotonic()
    try:
        while not list(folder.glob("prior/state-*.safetensors")):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() - began < LIMIT
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (folder / "prior" / "stage.json").exists()

    train(debug_run.recipe(), folder, device="cpu")
    for stage in ("prior", "aid"):
        unbroken = weights_of(debug_run.folder / stage / "model")
        assert weights_of(folder / stage / "model") == unbroken
        assert losses(folder, stage) == losses(debug_run.folder, stage)


def test_two_processes_share_the_steps_of_one(debug_run: DebugRun, tmp_path: Path) -> None:
    shutil.copytree(debug_run.folder / "vae", tmp_path / "run" / "vae")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *command(debug_run, tmp_path / "run")],
            env={**os.environ, **environment, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    try:
        assert [process.wait(LIMIT) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for stage in ("clip", "prior", "aid"):
        shared, alone = losses(tmp_path / "run", stage), losses(debug_run.folder, stage)
        np.testing.assert_allclose(shared, alone, rtol=2e-3, err_msg=stage)
