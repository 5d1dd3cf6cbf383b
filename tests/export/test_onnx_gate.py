"""The gate passes what is equal to torch, fails what isn't, and says which."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from aid_robot.cli import main
from aid_robot.errors import ConfigError
from aid_robot.evaluation.metrics import lpips
from aid_robot.evaluation.metrics.lpips import LPIPS
from aid_robot.export.calls import Recorder, mixed
from aid_robot.export.observations import Observation, read_observation
from aid_robot.export.report import THRESHOLDS, Check, LeftOut, Report
from aid_robot.export.verify import _check_rollout, _compare, verify
from aid_robot.foresight import VideoForesight
from aid_robot.runtime.denoiser import NetworkDenoiser
from tests.export.small_graph import write_graph
from tests.exported import Exports, load
from tests.tiny import tiny_model

PICTURE = np.random.default_rng(3).integers(0, 256, (40, 40, 3), np.uint8)


def gate(onnx_exports: Exports, engines: Path) -> Report:
    picture = Observation(PICTURE, "open the drawer")
    return verify(engines, load(onnx_exports.checkpoint), [picture], runtime="ort", steps=2)


def test_graphs_that_equal_torch_pass(onnx_exports: Exports) -> None:
    report = gate(onnx_exports, onnx_exports.folded)
    assert report.passed, report.table()
    checked = {check.what for check in report.checks}
    assert {"context", "batch of 24"} <= checked
    assert len([what for what in checked if "sigma" in what]) == 2, "every step"
    assert "LPIPS" in {one.what for one in report.left_out}, "32 pixels are too few"
    assert any(check.figure == "PSNR dB" for check in report.checks)
    values = json.loads(report.to_json())
    assert values["passed"] is True
    assert len(values["checks"]) == len(report.checks)


def scale_a_weight(engines: Path, by: float) -> None:
    """Change one weight as a faulty exporter would, and its record with it."""
    path = engines / "denoiser.onnx"
    proto = onnx.load(path)
    tensor = next(t for t in proto.graph.initializer if t.name == "conv_out.weight")
    changed = onnx.numpy_helper.to_array(tensor) * by
    tensor.CopyFrom(onnx.numpy_helper.from_array(changed.astype(np.float32), tensor.name))
    onnx.save(proto, path)
    record = engines / "export.json"
    values = json.loads(record.read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    values["graphs"] = {"denoiser": values["graphs"]["denoiser"]}
    values["graphs"]["denoiser"]["sha256"] = {"denoiser.onnx": digest}
    record.write_text(json.dumps(values))


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_a_graph_that_is_off_fails_the_command(
    onnx_exports: Exports, tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float
) -> None:
    engines = tmp_path / "engines"
    shutil.copytree(onnx_exports.folded, engines)
    command = ["export", "verify", str(engines), "--model", str(onnx_exports.checkpoint)]
    command += ["--device", "cpu", "--steps", "1", "--batches", "2"]
    assert main(command) == 0
    assert "passed" in capsys.readouterr().out
    scale_a_weight(engines, factor)
    status = main([*command, "--report", str(tmp_path / "report.json")])
    assert status == 1
    assert "FAILED" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["passed"] is False


@pytest.mark.parametrize("runtime", ["auto", "ort"])
def test_what_a_cpu_cannot_run_is_said_and_not_failed(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], runtime: str
) -> None:
    manifest = write_graph(tmp_path)
    graph = replace(manifest.graph("denoiser"), precision="bf16")
    replace(manifest, graphs={"denoiser": graph}).save(tmp_path)
    command = ["export", "verify", str(tmp_path), "--model", str(tiny_model_dir)]
    assert main([*command, "--device", "cpu", "--runtime", runtime]) == 0
    said = capsys.readouterr().out
    assert "left out: all (a CPU's ONNX Runtime can't run bf16" in said
    assert "not verified" in said


def test_a_rollout_is_compared_by_lpips_where_there_is_one() -> None:
    rng = np.random.default_rng(0)
    shapes = {name: 0.1 * rng.standard_normal(shape) for name, shape in lpips._shapes().items()}
    weights = {name: torch.from_numpy(values).float().abs() for name, values in shapes.items()}
    network = LPIPS(weights, torch.device("cpu"))
    truth = rng.integers(0, 256, (2, 4, 40, 40, 3), np.uint8)
    for shown, passes in ((truth, True), (255 - truth, False), (None, False)):
        checks = list(_check_rollout("x", shown, truth, 1, THRESHOLDS["fp32"], network))
        assert [check.figure for check in checks] == ["PSNR dB", "LPIPS"]
        assert all(check.passed == passes for check in checks), checks
    none = LeftOut("LPIPS", "it has no weights here")
    alone = list(_check_rollout("x", truth, truth, 1, THRESHOLDS["fp32"], none))
    assert [check.figure for check in alone] == ["PSNR dB"]


def test_batches_are_of_different_rows() -> None:
    model = tiny_model()
    recorder = Recorder(model.unet)
    denoiser = NetworkDenoiser(recorder, model.dtype, model.config.prediction_type)
    scales = {"image_guidance_scale": 1.5, "text_guidance_scale": 3.0}
    VideoForesight(model, denoiser=denoiser).predict(PICTURE, "open the drawer", seed=0, **scales)
    assert {len(call.sample) for call in recorder.calls} == {3}, "all branches"
    batch = mixed(recorder.calls, 7)
    rows = zip(batch.sample, batch.context[0].spatial_key, strict=True)
    assert len({tuple(part.numpy().tobytes() for part in row) for row in rows}) == 7
    found, truth = batch.run(model.unet, 7)
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-4)
    limits = THRESHOLDS["fp32"]

    def first_row(*inputs: Any) -> torch.Tensor:
        return model.unet(*inputs)[:1].expand(7, -1, -1, -1, -1)

    assert not any(check.passed for check in _compare("x", *batch.run(first_row, 7), limits))


def test_no_figure_that_is_not_a_number_passes() -> None:
    nan = float("nan")
    assert not Check("x", "relative L2", nan, 1.0, at_most=True).passed
    assert not Check("x", "PSNR dB", nan, 1.0, at_most=False).passed
    assert Check("x", "PSNR dB", float("inf"), 1.0, at_most=False).passed
    assert not Report("x", "ort", "fp32", {}, ()).passed, "nothing checked is nothing proven"
    assert set(THRESHOLDS) >= {"fp32", "fp16", "bf16"}


def test_what_is_no_observation_is_named(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    path.write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"frame\.png"):
        read_observation(str(path), "open the drawer", 1)


def test_the_command_exports_and_verifies(
    onnx_exports: Exports, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "onnx", "--model", str(onnx_exports.checkpoint), "--graphs", "dqformer"]
    assert main([*command, "--onnx-dir", str(tmp_path / "onnx")]) == 0
    shown = capsys.readouterr().out
    assert "dqformer.onnx" in shown
    assert "passed" in shown
