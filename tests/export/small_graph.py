"""A graph of two operators with its manifest: what the builder needs, in no time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aid_robot.runtime.manifest import Graph, Manifest, TensorSpec


def write_graph(folder: Path, *, operator: str = "Relu", columns: int | str = 8) -> Manifest:
    """Write y = operator(x @ w) and its `export.json`."""
    weights = numpy_helper.from_array(np.eye(8, dtype=np.float16), "w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["hidden"], name="product"),
            helper.make_node(operator, ["hidden"], ["y"], name="last"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["rows", columns, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["rows", columns, 8])],
        [weights],
    )
    path = folder / "denoiser.onnx"
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    manifest = Manifest(
        model="small",
        precision="fp16",
        adapters="folded",
        opset=20,
        config={},
        versions={},
        graphs={
            "denoiser": Graph(
                file=path.name,
                data=None,
                sha256={path.name: hashlib.sha256(path.read_bytes()).hexdigest()},
                precision="fp16",
                inputs=(TensorSpec("x", "float16", ("rows", columns, 8), "in"),),
                outputs=(TensorSpec("y", "float16", ("rows", columns, 8), "out"),),
                weights={"float16": "ab" * 32},
            )
        },
    )
    manifest.save(folder)
    return manifest
