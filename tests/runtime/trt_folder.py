"""Folders as the runtime "trt" finds them, without a GPU: a manifest, and a plan of some bytes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from aid_robot.runtime.manifest import Graph, Manifest, TensorSpec
from aid_robot.runtime.trt_fingerprint import Fingerprint, ShapeRange
from aid_robot.runtime.trt_library import Backend

PLAN = b"plan" * 1000
GRAPH = Graph(
    file="denoiser.onnx",
    data=None,
    sha256={"denoiser.onnx": "ab" * 32},
    precision="fp16",
    inputs=(
        TensorSpec("sample", "float16", ("rows", 4, 8), "noisy latents"),
        TensorSpec("timestep", "float32", ("rows",), "noise level"),
    ),
    outputs=(TensorSpec("output", "float16", ("rows", 4, 8), "v"),),
    weights={"float16": "cd" * 32},
)
FINGERPRINT = Fingerprint(
    file="denoiser.tensorrt.plan",
    size=len(PLAN),
    sha256=hashlib.sha256(PLAN).hexdigest(),
    backend="tensorrt",
    version="11.4.0.106",
    capabilities=("9.0",),
    gpu="NVIDIA H100 PCIe",
    driver="580.95",
    precision="fp16",
    graph=dict(GRAPH.sha256),
    shapes={
        "sample": ShapeRange((1, 4, 8), (3, 4, 8), (24, 4, 8)),
        "timestep": ShapeRange((1,), (3,), (24,)),
    },
    refittable=False,
    optimization_level=3,
    workspace_gib=None,
    seconds=12.5,
)
BACKEND = Backend("tensorrt", None, "11.4.0.106")


def manifest(fingerprint: Fingerprint | None = FINGERPRINT) -> Manifest:
    """A manifest that lists one engine, or none."""
    plain = Manifest(
        model="tiny",
        precision="fp16",
        adapters="folded",
        opset=20,
        config={},
        versions={},
        graphs={"denoiser": GRAPH},
    )
    if fingerprint is None:
        return plain
    return replace(plain, engines={fingerprint.backend: {"denoiser": fingerprint.to_dict()}})


def write_folder(folder: Path, fingerprint: Fingerprint = FINGERPRINT) -> Path:
    """Write the plan and `export.json`."""
    (folder / fingerprint.file).write_bytes(PLAN)
    manifest(fingerprint).save(folder)
    return folder
