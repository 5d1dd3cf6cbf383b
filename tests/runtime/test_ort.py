"""ONNX Runtime runs the exported UNet as torch does, and nothing else in its place."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from aid_robot import VideoForesight
from aid_robot.errors import ConfigError, EngineError, RuntimeUnavailableError
from aid_robot.evaluation.psnr import psnr
from aid_robot.model.aid import AIDModel
from aid_robot.model.checkpoint import load_model
from aid_robot.runtime import make_denoiser
from aid_robot.runtime.ort import check_packages, open_session
from tests.exported import Exports, call_of, load, relative_error

CPU = torch.device("cpu")
FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def model(onnx_exports: Exports) -> AIDModel:
    return load(onnx_exports.checkpoint)


@pytest.fixture
def copied(onnx_exports: Exports, tmp_path: Path) -> Path:
    """The folded denoiser in a folder that a test may damage."""
    folder = tmp_path / "engines"
    folder.mkdir()
    for name in ("denoiser.onnx", "export.json"):
        shutil.copy(onnx_exports.folded / name, folder)
    return folder


def network(model: AIDModel, engines: Path) -> Any:
    denoiser: Any = make_denoiser(model, "ort", engines)
    return denoiser.network


@pytest.mark.parametrize("rows", [1, 2, 3, 24])
def test_the_unet_equals_torch_in_both_forms(
    onnx_exports: Exports, model: AIDModel, rows: int
) -> None:
    call = call_of(model, rows)
    with torch.inference_mode():
        truth = model.unet(**call)
        folded = network(model, onnx_exports.folded)(**call)
        handed = network(model, onnx_exports.inputs)(**call)
    assert folded.shape == truth.shape
    assert relative_error(folded, truth) <= 1e-5
    assert relative_error(handed, truth) <= 1e-5
    assert relative_error(handed, folded) <= 1e-6


def test_foresight_shows_what_torch_shows(onnx_exports: Exports) -> None:
    ways = [
        VideoForesight.from_pretrained(
            onnx_exports.checkpoint, device="cpu", dtype="float32", runtime=runtime, engines=engines
        )
        for runtime, engines in (("torch", None), ("ort", onnx_exports.folded))
    ]
    truth, shown = (
        way.predict(FRAME, "open the drawer", num_samples=2, seed=3, still_threshold=0).frames
        for way in ways
    )
    assert psnr(shown[:, 1:], truth[:, 1:]) >= 45
    with_engines = VideoForesight.from_pretrained(
        onnx_exports.checkpoint, device="cpu", engines=onnx_exports.folded
    )
    assert with_engines.model.dtype == torch.float32, "the engines' own"
    alone = with_engines.predict(
        FRAME, "open the drawer", num_samples=2, seed=3, still_threshold=0
    ).frames
    np.testing.assert_array_equal(alone, shown)


def test_adapters_swap_without_a_new_export(onnx_exports: Exports, model: AIDModel) -> None:
    other = load(onnx_exports.other_checkpoint)
    call = call_of(other, 2)
    with torch.inference_mode():
        truth = other.unet(**call)
        found = network(other, onnx_exports.inputs)(**call)
        before = network(model, onnx_exports.inputs)(**call)
    assert relative_error(found, truth) <= 1e-5
    assert relative_error(before, truth) > 0.01, "the weights matter"


def test_a_graph_of_another_checkpoint_is_refused(onnx_exports: Exports) -> None:
    other = load(onnx_exports.other_checkpoint)
    with pytest.raises(EngineError, match="exported from other weights"):
        make_denoiser(other, "ort", onnx_exports.folded)


def test_a_model_in_half_precision_is_known_as_the_same(
    onnx_exports: Exports, model: AIDModel
) -> None:
    """Checkpoints are compared by what they are once rounded."""
    for dtype in (torch.bfloat16, torch.float16):
        make_denoiser(load_model(onnx_exports.checkpoint, dtype=dtype), "ort", onnx_exports.folded)


def test_frozen_weights_count_even_where_adapters_are_handed_in(onnx_exports: Exports) -> None:
    changed = load(onnx_exports.checkpoint)
    with torch.no_grad():
        changed.unet.conv_in.weight[0, 0, 0, 0] += 0.01
    with pytest.raises(EngineError, match="exported from other weights"):
        make_denoiser(changed, "ort", onnx_exports.inputs)


def test_adapters_of_another_size_are_refused(onnx_exports: Exports) -> None:
    other = load(onnx_exports.checkpoint)
    name, parameter = next(
        (n, p) for n, p in other.unet.named_parameters() if n.endswith("spatial.down.weight")
    )
    parameter.data = torch.zeros(3, 3)
    with pytest.raises(EngineError, match=name.replace(".", r"\.")):
        make_denoiser(other, "ort", onnx_exports.inputs)


def test_clips_of_another_size_are_refused(onnx_exports: Exports, model: AIDModel) -> None:
    other = load(onnx_exports.checkpoint)
    other.config = other.config.replace(height=128)
    with pytest.raises(EngineError, match=r"\(16, 16, 32, 16\)"):
        make_denoiser(other, "ort", onnx_exports.folded)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_graph_is_refused(copied: Path, model: AIDModel, damage: str) -> None:
    path = copied / "denoiser.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "flipped":
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.raises(EngineError, match=r"denoiser\.onnx"):
        make_denoiser(model, "ort", copied)


def test_a_folder_without_a_denoiser_is_refused(copied: Path, model: AIDModel) -> None:
    path = copied / "export.json"
    values = json.loads(path.read_text())
    values["graphs"] = {}
    path.write_text(json.dumps(values))
    with pytest.raises(EngineError, match="no graph 'denoiser'"):
        make_denoiser(model, "ort", copied)


def test_a_missing_provider_is_said(onnx_exports: Exports) -> None:
    with pytest.raises(
        RuntimeUnavailableError, match=r"no CUDAExecutionProvider.*aid-robot\[gpu\]"
    ):
        open_session(onnx_exports.folded / "denoiser.onnx", "cuda", CPU)


def test_another_provider_falls_in_only_when_asked(onnx_exports: Exports, model: AIDModel) -> None:
    with pytest.raises(RuntimeUnavailableError, match="ort:cuda"):
        make_denoiser(model, "ort:cuda", onnx_exports.folded)
    with pytest.warns(UserWarning, match="'ort:cuda' can't be used and 'ort:cpu' takes its place"):
        make_denoiser(model, ("ort:cuda", "ort:cpu"), onnx_exports.folded)


def test_a_graph_in_bf16_is_named_on_a_cpu(tmp_path: Path) -> None:
    values = [
        helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [1, 1, 4, 4]) for name in "xy"
    ]
    node = helper.make_node("Conv", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "half", values[:1], values[1:])
    opset = helper.make_opsetid("", 20)
    path = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    with pytest.raises(EngineError, match=r"Conv.*fp32 or fp16"):
        open_session(path, "cpu", CPU)


def test_both_packages_of_onnxruntime_are_one_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_packages()
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.31.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(RuntimeUnavailableError, match="pip uninstall -y onnxruntime"):
        check_packages()


@pytest.mark.parametrize(
    ("runtime", "engines", "message"),
    [
        ("ort", None, "needs engines="),
        ("torch", "somewhere", "leave the engines out"),
        ("onnx", None, "did you mean 'ort'|is one of"),
        ((), None, "names none"),
        (("torch", "tpu"), None, "runtime='tpu'"),
    ],
)
def test_a_runtime_that_makes_no_sense_is_refused(
    model: AIDModel, runtime: Any, engines: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_denoiser(model, runtime, engines)


def test_engines_that_are_not_there_are_named(model: AIDModel, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"export\.json.*aid-robot export onnx"):
        make_denoiser(model, "auto", tmp_path)
