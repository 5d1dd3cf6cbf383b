"""Quantising: what goes into ModelOpt, what comes out of it, and what is refused before."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aid_robot.cli import main
from aid_robot.errors import ConfigError, EngineError, ExportError, MissingDependencyError
from aid_robot.export.quantize import (
    choose_left_out,
    fold_transposed,
    quantize,
    read_calibration,
)
from aid_robot.runtime.manifest import Graph, Manifest, TensorSpec

onnx = pytest.importorskip("onnx", reason="ONNX: pip install 'aid-robot[cpu]'")

CHANNELS, SIDE = 32, 8
MODELOPT = "ModelOpt: pip install 'nvidia-modelopt[onnx]' in an environment of its own"


def write_network(folder: Path, precision: str = "fp32") -> Manifest:
    """Write convolutions and a product with turned weights, as a denoiser's layers are exported."""
    rng = np.random.default_rng(0)
    dtype = {"fp32": np.float32, "fp16": np.float16}[precision]
    shapes = {
        "conv_in.weight": (CHANNELS, CHANNELS, 3, 3),
        "mid.conv.weight": (CHANNELS, CHANNELS, 3, 3),
        "mid.temporal.weight": (CHANNELS, CHANNELS, 3, 1, 1),
        "mid.linear.weight": (64, CHANNELS),
    }
    weights = [
        onnx.numpy_helper.from_array(
            (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype), name
        )
        for name, shape in shapes.items()
    ]
    axes = onnx.numpy_helper.from_array(np.array([2], np.int64), "axes")
    node, pads = onnx.helper.make_node, [1, 1, 1, 1]
    nodes = [
        node("Conv", ["x", "conv_in.weight"], ["a"], name="first", pads=pads),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Conv", ["b", "mid.conv.weight"], ["c"], name="plane", pads=pads),
        node("Relu", ["c"], ["d"], name="relu2"),
        node("Unsqueeze", ["d", "axes"], ["e"], name="lift"),
        node("Conv", ["e", "mid.temporal.weight"], ["f"], name="volume", pads=[1, 0, 0, 1, 0, 0]),
        node("Squeeze", ["f", "axes"], ["g"], name="drop"),
        node("Transpose", ["g"], ["h"], name="last_axis", perm=[0, 2, 3, 1]),
        node("Transpose", ["mid.linear.weight"], ["turned"], name="turn", perm=[1, 0]),
        node("MatMul", ["h", "turned"], ["y"], name="product"),
    ]
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [value("x", kind, ["rows", CHANNELS, SIDE, SIDE])],
        [value("y", kind, ["rows", SIDE, SIDE, 64])],
        [*weights, axes],
    )
    opset = onnx.helper.make_opsetid("", 20)
    path = folder / "denoiser.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    name = np.dtype(dtype).name
    made = Graph(
        file=path.name,
        data=None,
        sha256={path.name: hashlib.sha256(path.read_bytes()).hexdigest()},
        precision=precision,
        inputs=(TensorSpec("x", name, ("rows", CHANNELS, SIDE, SIDE), "in"),),
        outputs=(TensorSpec("y", name, ("rows", SIDE, SIDE, 64), "out"),),
        weights={"float32": "ab" * 32},
    )
    manifest = Manifest("small", precision, "folded", 20, {}, {}, {"denoiser": made})
    manifest.save(folder)
    return manifest


def write_rows(path: Path, dtype: Any = np.float32, rows: int = 6) -> Path:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((rows, CHANNELS, SIDE, SIDE)).astype(dtype)
    np.savez(path, x=x)
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return write_network(tmp_path_factory.mktemp("network")).graph("denoiser")


def test_turned_weights_are_folded_and_nothing_else_changes(tmp_path: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    write_network(tmp_path)
    model = onnx.load(tmp_path / "denoiser.onnx")
    rows = {"x": np.random.default_rng(2).standard_normal((1, CHANNELS, SIDE, SIDE), np.float32)}
    before = ReferenceEvaluator(model).run(None, rows)[0]
    assert fold_transposed(model) == {"turned": "mid.linear.weight"}
    assert [node.name for node in model.graph.node if node.op_type == "Transpose"] == ["last_axis"]
    assert "mid.linear.weight" not in {tensor.name for tensor in model.graph.initializer}
    assert np.array_equal(ReferenceEvaluator(model).run(None, rows)[0], before)


def test_what_is_sensitive_is_left_out(tmp_path: Path) -> None:
    write_network(tmp_path)
    model = onnx.load(tmp_path / "denoiser.onnx")
    origins = fold_transposed(model)
    assert choose_left_out(model, origins, "int8") == ["first"]
    assert choose_left_out(model, origins, "fp8") == ["first", "volume"]
    origins = {"turned": "up_blocks.0.resnets.0.spatial_res_block.time_emb_proj.weight"}
    assert choose_left_out(model, origins, "int8") == ["first", "product"]


# -- rows ------------------------------------------------------------------------------------------


def test_rows_of_the_graph_are_read(graph: Graph, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.npz")
    assert read_calibration(path, graph)["x"].shape == (6, CHANNELS, SIDE, SIDE)
    spec = replace(graph.inputs[0], shape=(4, CHANNELS, SIDE, SIDE))
    assert len(read_calibration(path, replace(graph, inputs=(spec,)))["x"]) == 4, "whole batches"
    spec = replace(spec, shape=(7, CHANNELS, SIDE, SIDE))
    with pytest.raises(ConfigError, match=r"has 6 rows and .* takes 7 at once"):
        read_calibration(path, replace(graph, inputs=(spec,)))


def test_rows_of_another_graph_are_refused(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    with pytest.raises(ConfigError, match=r"there is no .*rows\.npz"):
        read_calibration(path, graph)
    x = np.zeros((2, CHANNELS, SIDE, SIDE), np.float32)
    bad: dict[str, dict[str, Any]] = {
        "differ in y": {"x": x, "y": x},
        "float16": {"x": x.astype(np.float16)},
        "takes rows of": {"x": x[..., 1:]},
        "aren't finite": {"x": x + np.nan},
        r"\(0, 32": {"x": x[:0]},
        "damaged": {"x": np.array([{}])},
    }
    for message, arrays in bad.items():
        np.savez(path, **arrays)
        with pytest.raises(ConfigError, match=message):
            read_calibration(path, graph)
    np.savez_compressed(path, x=x)
    with pytest.raises(ConfigError, match="compressed"):
        read_calibration(path, graph)


def test_a_header_that_promises_more_than_the_file_has_is_refused(
    graph: Graph, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.npz")
    content = path.read_bytes()
    assert content.count(b"(6, 32, 8, 8)") == 1
    path.write_bytes(content.replace(b"(6, 32, 8, 8)", b"(9, 99, 9, 9)"))
    with pytest.raises(ConfigError, match="damaged"):
        read_calibration(path, graph)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_is_found_or_harmless(graph: Graph, tmp_path: Path, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros((1, CHANNELS, SIDE, SIDE), np.float32))
    content = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        near_the_ends = st.integers(0, 200) | st.integers(len(content) - 200, len(content) - 1)
        content[data.draw(near_the_ends)] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "rows.npz"
    path.write_bytes(content)
    try:
        rows = read_calibration(path, graph)
    except ConfigError:
        return
    assert rows["x"].shape == (1, CHANNELS, SIDE, SIDE)


# -- the folder ------------------------------------------------------------------------------------


def test_what_cannot_be_quantised_is_refused(tmp_path: Path) -> None:
    manifest = write_network(tmp_path / "onnx")
    graph = manifest.graph("denoiser")
    rows, target = write_rows(tmp_path / "rows.npz"), tmp_path / "target"
    with pytest.raises(ConfigError, match="name another"):
        quantize(tmp_path / "onnx", rows, "int8", tmp_path / "onnx")
    with pytest.raises(ConfigError, match="int8, fp8"):
        quantize(tmp_path / "onnx", rows, "int4", target)
    changed: dict[str, Manifest] = {
        "--adapters folded": replace(manifest, adapters="inputs"),
        "--precision fp16": replace(
            manifest, graphs={"denoiser": replace(graph, precision="bf16")}
        ),
        "already": replace(manifest, graphs={"denoiser": replace(graph, quantization="fp8")}),
    }
    for message, case in changed.items():
        case.save(tmp_path / "onnx")
        with pytest.raises(ConfigError, match=message):
            quantize(tmp_path / "onnx", rows, "int8", target)
    manifest.save(tmp_path / "onnx")
    (tmp_path / "onnx" / "denoiser.onnx").write_bytes(b"damaged")
    with pytest.raises(EngineError, match="SHA-256"):
        quantize(tmp_path / "onnx", rows, "int8", target)
    assert not target.exists(), "nothing half done"


@pytest.mark.skipif(find_spec("modelopt") is not None, reason="ModelOpt is installed here")
def test_without_modelopt_the_remedy_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_network(tmp_path / "onnx")
    rows = write_rows(tmp_path / "onnx" / "calibration.npz")
    with pytest.raises(MissingDependencyError, match="environment of its own"):
        quantize(tmp_path / "onnx", rows, "int8", tmp_path / "target")
    assert main(["export", "quantize", "--onnx-dir", str(tmp_path / "onnx"), "--mode", "fp8"]) == 2
    assert "pip install -e . 'nvidia-modelopt[onnx]'" in capsys.readouterr().err


def test_a_manifest_knows_what_is_quantised(tmp_path: Path) -> None:
    manifest = write_network(tmp_path, "fp16")
    assert manifest.arithmetic == "fp16"
    graph = replace(manifest.graph("denoiser"), quantization="int8")
    replace(manifest, graphs={"denoiser": graph}).save(tmp_path)
    found = Manifest.load(tmp_path)
    assert (found.precision, found.arithmetic) == ("fp16", "int8")
    values = json.loads((tmp_path / "export.json").read_text())
    values["graphs"]["denoiser"]["quantization"] = "int3"
    (tmp_path / "export.json").write_text(json.dumps(values))
    with pytest.raises(EngineError, match="quantization is 'int3'"):
        Manifest.load(tmp_path)
    del values["graphs"]["denoiser"]["quantization"]  # of before there was any
    (tmp_path / "export.json").write_text(json.dumps(values))
    assert Manifest.load(tmp_path).arithmetic == "fp16"


def test_the_gate_has_limits_for_all_numbers() -> None:
    from aid_robot.export.report import THRESHOLDS
    from aid_robot.runtime.manifest import PRECISIONS, QUANTIZATIONS

    assert set(THRESHOLDS) == {*PRECISIONS, *QUANTIZATIONS}
    assert THRESHOLDS["fp16"].relative_l2 < THRESHOLDS["fp8"].relative_l2 < 1


# -- ModelOpt itself -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "precision", "left_out"),
    [("int8", "fp32", 1), ("int8", "fp16", 1), ("fp8", "fp16", 2)],
)
def test_modelopt_rounds_what_it_should(
    tmp_path: Path, mode: str, precision: str, left_out: int
) -> None:
    pytest.importorskip("modelopt", reason=MODELOPT)
    from onnx.reference import ReferenceEvaluator

    write_network(tmp_path / "onnx", precision)
    dtype = np.float32 if precision == "fp32" else np.float16
    rows = write_rows(tmp_path / "rows.npz", dtype)
    manifest = quantize(tmp_path / "onnx", rows, mode, tmp_path / "target")
    assert Manifest.load(tmp_path / "target") == manifest
    graph = manifest.graph("denoiser")
    assert (graph.precision, graph.arithmetic) == (precision, mode)
    assert {file.name for file in (tmp_path / "target").iterdir()} == {"export.json", graph.file}
    assert "nvidia-modelopt" in manifest.versions

    path = manifest.check_files(tmp_path / "target", "denoiser")
    nodes = onnx.load(path).graph.node
    made_by = {name: node.op_type for node in nodes for name in node.output}
    products = [node for node in nodes if node.op_type in ("Conv", "MatMul")]
    fed = Counter(made_by.get(node.input[0]) == "DequantizeLinear" for node in products)
    assert (fed[False], fed[True]) == (left_out, 4 - left_out)
    # By onnx's own reference: onnxruntime 1.24, which ModelOpt pins, truncates fp16 there.
    x = {"x": np.load(rows)["x"]}
    truth, found = (
        ReferenceEvaluator(onnx.load(each)).run(None, x)[0].astype(np.float64)
        for each in (tmp_path / "onnx" / "denoiser.onnx", path)
    )
    error = np.linalg.norm(found - truth) / np.linalg.norm(truth)
    assert 1e-3 < error < 0.06, "rounded, and little"


def test_weights_in_a_file_apart_stay_so(tmp_path: Path) -> None:
    pytest.importorskip("modelopt", reason=MODELOPT)
    manifest = write_network(tmp_path / "onnx")
    path = tmp_path / "onnx" / "denoiser.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="denoiser.data")
    files = (path, path.with_suffix(".data"))
    sha256 = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}
    graph = replace(manifest.graph("denoiser"), data="denoiser.data", sha256=sha256)
    replace(manifest, graphs={"denoiser": graph}).save(tmp_path / "onnx")
    rows = write_rows(tmp_path / "rows.npz")
    made = quantize(tmp_path / "onnx", rows, "int8", tmp_path / "target").graph("denoiser")
    assert made.data is not None
    assert set(made.sha256) == {made.file, made.data}
    there = {each.name: each.stat().st_size for each in (tmp_path / "target").iterdir()}
    assert set(there) == {"export.json", made.file, made.data}
    assert there[made.data] > 4 * CHANNELS**2 * 9
    held = onnx.load(tmp_path / "target" / made.file).graph.initializer
    assert "conv_in.weight" in {tensor.name for tensor in held}


def test_what_modelopt_cannot_do_is_told(tmp_path: Path) -> None:
    pytest.importorskip("modelopt", reason=MODELOPT)
    manifest = write_network(tmp_path / "onnx")
    path = tmp_path / "onnx" / "denoiser.onnx"
    model = onnx.load(path)
    next(node for node in model.graph.node if node.name == "relu").op_type = "NoOperator"
    onnx.save(model, path)
    sha256 = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    graph = replace(manifest.graph("denoiser"), sha256=sha256)
    replace(manifest, graphs={"denoiser": graph}).save(tmp_path / "onnx")
    rows = write_rows(tmp_path / "rows.npz")
    with pytest.raises(ExportError, match="ModelOpt can't quantise"):
        quantize(tmp_path / "onnx", rows, "int8", tmp_path / "target")
    assert not list((tmp_path / "target").iterdir())
