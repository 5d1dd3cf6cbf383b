"""Engines of quantised graphs: built where they make sense, refused where they don't."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aid_robot.errors import ConfigError
from aid_robot.runtime.manifest import Graph, Manifest, TensorSpec

onnx = pytest.importorskip("onnx", reason="ONNX: pip install 'aid-robot[cpu]'")

from tests.export.small_graph import write_graph  # noqa: E402  needs onnx


def test_engines_are_refused_where_they_make_no_sense(tmp_path: Path) -> None:
    from aid_robot.export.trt_builder import BuildOptions, check_quantised

    graph = write_graph(tmp_path).graph("denoiser")

    def check(quantization: str | None, *capabilities: str, refit: bool = False) -> None:
        options = BuildOptions({"rows": (1, 3, 24)}, capabilities=capabilities, refit=refit)
        check_quantised(replace(graph, quantization=quantization), options)

    check("fp8", "8.9", "9.0", "12.0")
    check("int8", "8.0")
    check(None, "8.0", refit=True)
    with pytest.raises(ConfigError, match=r"for 8\.0, 8\.6 too: .*-capabilities 8\.9 12\.0,"):
        check("fp8", "8.0", "8.6", "8.9", "12.0")
    with pytest.raises(ConfigError, match=r"for 7\.5 too: quantise with --mode int8"):
        check("fp8", "7.5")
    with pytest.raises(ConfigError, match="leave out --build-enable-refit"):
        check("int8", "8.9", refit=True)


def rounded(folder: Path, mode: str) -> Manifest:
    """Write y = dequantise(quantise(x)) @ dequantise(quantise(w)), typed as ModelOpt does."""
    kind = onnx.TensorProto.INT8 if mode == "int8" else onnx.TensorProto.FLOAT8E4M3FN
    half, node = onnx.TensorProto.FLOAT16, onnx.helper.make_node
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float16)
    nodes = []
    for name in ("x", "w"):
        pair = [f"{name}_scale", f"{name}_zero"]
        nodes += [
            node("QuantizeLinear", [name, *pair], [f"{name}_q"]),
            node("DequantizeLinear", [f"{name}_q", *pair], [f"{name}_d"]),
        ]
    nodes.append(node("MatMul", ["x_d", "w_d"], ["y"]))
    value, tensor = onnx.helper.make_tensor_value_info, onnx.helper.make_tensor
    held = [onnx.numpy_helper.from_array(weights, "w")]
    for name in ("x", "w"):
        held.append(onnx.numpy_helper.from_array(np.array(0.03, np.float16), f"{name}_scale"))
        held.append(tensor(f"{name}_zero", kind, [], b"\0", raw=True))
    proto = onnx.helper.make_graph(
        nodes, "g", [value("x", half, ["rows", 64])], [value("y", half, ["rows", 64])], held
    )
    opset = onnx.helper.make_opsetid("", 20)
    path = folder / f"denoiser.{mode}.onnx"
    onnx.save(onnx.helper.make_model(proto, opset_imports=[opset], ir_version=10), path)
    graph = Graph(
        file=path.name,
        data=None,
        sha256={path.name: hashlib.sha256(path.read_bytes()).hexdigest()},
        precision="fp16",
        inputs=(TensorSpec("x", "float16", ("rows", 64), "in"),),
        outputs=(TensorSpec("y", "float16", ("rows", 64), "out"),),
        weights={"float16": "ab" * 32},
        quantization=mode,
    )
    manifest = Manifest("small", "fp16", "folded", 20, {}, {}, {"denoiser": graph})
    manifest.save(folder)
    return manifest


@pytest.mark.parametrize("mode", ["int8", "fp8"])
def test_a_quantised_graph_becomes_an_engine(
    tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX: pip install 'aid-robot[trt-rtx]'")
    from aid_robot.export.to_trt import build_engines
    from aid_robot.export.trt_builder import BuildOptions
    from aid_robot.runtime.trt_library import load_backend

    rounded(tmp_path, mode)
    options = BuildOptions({"rows": (1, 3, 24)}, capabilities=("8.9",))
    built = build_engines(tmp_path, tmp_path, load_backend("tensorrt_rtx"), options)["denoiser"]
    assert built.size > 0
    shown = capsys.readouterr().out
    assert f"denoiser       {mode}" in shown
