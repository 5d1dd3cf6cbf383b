"""Calibration keeps what the UNet is really called with, of all levels and branches alike."""

from __future__ import annotations

import math
import resource
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.cli import main
from aid_robot.data.ingest import Recording, open_recording
from aid_robot.errors import ConfigError, DataFormatError, EngineError, ExportError
from aid_robot.export.calibration import (
    Arrays,
    _strata,
    calibrate,
    choose_observations,
    save_calibration,
)
from aid_robot.export.graphs import make_source
from aid_robot.export.quantize import read_calibration
from aid_robot.model.aid import AIDModel
from aid_robot.model.checkpoint import load_model
from aid_robot.model.diffusion import make_sigmas
from aid_robot.runtime.manifest import Graph, Manifest, digests_by_dtype
from aid_robot.runtime.unet_graph import unflatten_context
from tests.recordings import write_irasim


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> AIDModel:
    return load_model(tiny_model_dir)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return open_recording(write_irasim(tmp_path_factory.mktemp("recording"), episodes=3))


def manifest_of(model: AIDModel, precision: str = "fp32") -> Manifest:
    """Describe the denoiser as an export would, without tracing it."""
    source = make_source("denoiser", model, precision=precision)
    graph = Graph(
        file="denoiser.onnx",
        data=None,
        sha256={"denoiser.onnx": "0" * 64},
        precision=precision,
        inputs=source.inputs,
        outputs=source.outputs,
        weights=digests_by_dtype(source.weights),
    )
    return Manifest("tiny", precision, "folded", 20, {}, {}, {"denoiser": graph})


@pytest.fixture(scope="module")
def arrays(model: AIDModel, recording: Recording) -> Arrays:
    return calibrate(model, manifest_of(model), recording, clips=2, steps=2, seed=1)


def test_rows_are_inputs_that_the_unet_takes(model: AIDModel, arrays: Arrays) -> None:
    specs = manifest_of(model).graph("denoiser").inputs
    assert list(arrays) == [spec.name for spec in specs], "in the graph's order"
    rows = len(arrays["sample"])
    assert rows == 4, "of two clips both noise levels"
    for spec in specs:
        assert spec.accepts(arrays[spec.name].shape)
        assert arrays[spec.name].dtype == np.float32
    tensors = [torch.from_numpy(array) for array in arrays.values()]
    with torch.inference_mode():
        answer = model.unet(tensors[0], tensors[1], unflatten_context(tensors[3:]), tensors[2])
    assert torch.isfinite(answer).all()


def test_rows_are_of_all_noise_levels_and_branches(model: AIDModel, arrays: Arrays) -> None:
    levels = Counter(np.round(arrays["timestep"], 5).tolist())
    sigmas = make_sigmas(model.config.sampling, 2)[:-1]
    assert {round(level, 4) for level in levels} == {
        round(math.log(sigma) / 4, 4) for sigma in sigmas
    }
    assert set(levels.values()) == {2}
    # The null image's branch is conditioned on zeros, the others on the frame.
    channels = arrays["sample"].shape[2] // 2
    of_null = [not row[:, channels:].any() for row in arrays["sample"]]
    assert any(of_null)
    assert not all(of_null)
    # At the first level a row is noise alone, scaled to a deviation of about 1.
    noisy = arrays["sample"][arrays["timestep"] == arrays["timestep"].max()][:, :, :channels]
    assert 0.8 < noisy[:, 1:].std() < 1.2


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 500))
def test_levels_are_dealt_evenly(steps: int, levels: int, first: int) -> None:
    levels = min(steps, levels)
    dealt = [_strata(steps, levels, clip) for clip in range(first, first + steps)]
    assert all(len(hand) == levels for hand in dealt)
    assert Counter(step for hand in dealt for step in hand) == dict.fromkeys(range(steps), levels)


def test_a_seed_chooses_observations(recording: Recording) -> None:
    def grey(seed: int, clips: int = 4) -> list[tuple[int, str]]:
        chosen = choose_observations(recording, clips, 1, 5.0, seed)
        return [(int(view.frames.mean()), view.instruction) for view in chosen]

    assert grey(0) == grey(0)
    assert len({tuple(grey(seed)) for seed in range(5)}) > 1
    texts = Counter(text for _, text in grey(0))
    assert set(texts.values()) == {2}, "two of each episode that has an instruction"
    assert len(set(grey(0, clips=16))) == 16, "no observation twice"


def test_an_observation_keeps_the_rate_of_the_model(recording: Recording) -> None:
    view = choose_observations(recording, 1, frames=3, fps=2.5, seed=0)[0]
    steps = np.diff(view.frames.mean(axis=(1, 2, 3)))  # greys go up by 10 a frame, at 5 fps
    assert np.allclose(steps, 20, atol=3)


def test_too_small_a_recording_is_refused(recording: Recording, tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"16 observations .* in 2 episodes, and 17 were"):
        choose_observations(recording, 17, 1, 5.0, 0)
    mute = write_irasim(tmp_path / "mute", episodes=3)
    for name in ("0", "1"):
        (mute / "annotation" / "train" / f"{name}.json").unlink()
        shutil.rmtree(mute / "videos" / "train" / name)
    with pytest.raises(DataFormatError, match="has 1 episodes, none with an instruction"):
        choose_observations(open_recording(mute), 1, 1, 5.0, 0)


def test_a_graph_that_cannot_be_quantised_is_refused(model: AIDModel, recording: Recording) -> None:
    manifest = manifest_of(model)
    graph = manifest.graph("denoiser")
    cases: dict[str, Manifest] = {
        "--adapters folded": replace(manifest, adapters="inputs"),
        "--precision fp16 or fp32": manifest_of(model, "bf16"),
        r"quantised already \(int8\)": replace(
            manifest, graphs={"denoiser": replace(graph, quantization="int8")}
        ),
    }
    for message, case in cases.items():
        with pytest.raises(ConfigError, match=message):
            calibrate(model, case, recording)
    with pytest.raises(ConfigError, match="clips=0"):
        calibrate(model, manifest, recording, clips=0)
    other = replace(graph, weights={"float32": "0" * 64})
    with pytest.raises(EngineError, match="from other weights"):
        calibrate(model, replace(manifest, graphs={"denoiser": other}), recording)


def test_a_full_disk_leaves_no_half_a_file(arrays: Arrays, tmp_path: Path) -> None:
    path = tmp_path / "calibration.npz"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(ExportError, match="free some disk space"):
            save_calibration(arrays, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_what_quantising_reads(
    model: AIDModel,
    recording: Recording,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = manifest_of(model, "fp16")
    manifest.save(tmp_path)
    command = ["export", "calibrate", str(recording.path), "--onnx-dir", str(tmp_path)]
    command += ["--model", str(tiny_model_dir), "--device", "cpu", "--clips", "1", "--steps", "1"]
    assert main(command) == 0
    assert "1 rows of 1 clips" in capsys.readouterr().out
    rows = read_calibration(tmp_path / "calibration.npz", manifest.graph("denoiser"))
    assert rows["sample"].dtype == np.float16
    assert rows["timestep"].dtype == np.float32
    with np.load(tmp_path / "calibration.npz", allow_pickle=False) as loaded:
        assert set(loaded.files) == set(rows)
