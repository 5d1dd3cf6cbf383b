"""What the code calls exists in the real bindings of TensorRT 10, TensorRT 11 and TensorRT-RTX.

The bindings are 1 MB and install anywhere, their libraries need a GPU's worth of downloads; linked
to empty libraries the bindings still import, and every class and enum can be looked at. Looked for
are the installed `tensorrt_rtx`, and the `tensorrt_bindings` that are installed or in the folders
of $AID_ROBOT_TENSORRT_BINDINGS (`pip install --target FOLDER --no-deps tensorrt-cu13-bindings`).
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*sorted((ROOT / "aid_robot/runtime").glob("trt*.py")), ROOT / "export/trt_builder.py"]

# Methods and attributes that the code uses, by the class of the object; RTX_ONLY in RTX alone.
USED = {
    "Builder": "build_serialized_network create_builder_config create_network "
    "create_optimization_profile",
    "IBuilderConfig": "add_optimization_profile builder_optimization_level clear_flag "
    "create_timing_cache get_timing_cache progress_monitor set_flag set_memory_pool_limit "
    "set_timing_cache",
    "IOptimizationProfile": "set_shape",
    "ITimingCache": "serialize",
    "IProgressMonitor": "phase_start step_complete phase_finish",
    "OnnxParser": "get_error num_errors parse_from_file supports_operator",
    "ParserError": "desc node_name node_operator",
    "Runtime": "deserialize_cuda_engine",
    "ICudaEngine": "create_execution_context device_memory_size_v2 get_tensor_dtype "
    "get_tensor_mode get_tensor_name num_io_tensors",
    "IExecutionContext": "execute_async_v3 get_tensor_shape set_device_memory set_input_shape "
    "set_tensor_address",
    "Refitter": "get_missing_weights refit_cuda_engine set_named_weights",
}
RTX_ONLY = {
    "IBuilderConfig": "num_compute_capabilities set_compute_capability",
    "Runtime": "get_engine_validity",
    "ICudaEngine": "create_runtime_config",
    "IRuntimeConfig": "cuda_graph_strategy dynamic_shapes_kernel_specialization_strategy "
    "set_execution_context_allocation_strategy",
}
# What of `trt.` is RTX's own.
RTX_NAMES = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInvalidityDiagnostics",
    "EngineValidity",
}
# Calls whose arguments pybind11 writes into the docstring.
SIGNATURES = {
    "IExecutionContext.set_input_shape": "shape: tuple",
    "IExecutionContext.set_device_memory": "memory: .*, size: ",
    "IExecutionContext.execute_async_v3": "stream_handle: ",
    "IExecutionContext.set_tensor_address": "name: str, memory: ",
    "ICudaEngine.create_execution_context": "strategy: .*ExecutionContextAllocationStrategy",
    "IOptimizationProfile.set_shape": "input: str, min: .*, opt: .*, max: ",
    "IBuilderConfig.set_memory_pool_limit": "pool: .*, pool_size: ",
    "IBuilderConfig.set_timing_cache": "cache: .*, ignore_mismatch: bool",
    "Refitter.set_named_weights": "name: str, weights: .*Weights",
    "Weights.__init__": "type: .*DataType, ptr: .*, count: ",
}

LOOK = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
found = {}
for path in json.loads(sys.argv[2]):
    owner = trt
    for name in path.split("."):
        owner = getattr(owner, name, None)
    found[path] = None if owner is None else (getattr(owner, "__doc__", None) or "")
print(json.dumps({"version": trt.__version__, "found": found}))
"""
STUB = """
#define STUB(name) void *name(void) { return 0; }
STUB(createInferBuilder_INTERNAL) STUB(createInferRefitter_INTERNAL)
STUB(createInferRuntime_INTERNAL) STUB(createNvOnnxParserRefitter_INTERNAL)
STUB(createNvOnnxParser_INTERNAL) STUB(getBuilderPluginRegistry) STUB(getPluginRegistry)
STUB(initLibNvInferPlugins)
int getNvOnnxParserVersion(void) { return 0; }
"""


@dataclass(frozen=True)
class Bindings:
    """Bindings to look into, in a process of their own."""

    module: str
    folder: Path | None = None

    @property
    def is_rtx(self) -> bool:
        return self.module == "tensorrt_rtx"


def _bindings() -> Iterator[Bindings]:
    if importlib.util.find_spec("tensorrt_rtx"):
        yield Bindings("tensorrt_rtx")
    spec = importlib.util.find_spec("tensorrt_bindings")
    if spec is not None and spec.origin is not None:
        yield Bindings("tensorrt_bindings", Path(spec.origin).parents[1])
    for folder in filter(None, os.environ.get("AID_ROBOT_TENSORRT_BINDINGS", "").split(os.pathsep)):
        yield Bindings("tensorrt_bindings", Path(folder))


FOUND = list(_bindings()) or [
    pytest.param(
        None, marks=pytest.mark.skip("TensorRT's bindings: pip install tensorrt-cu13-bindings")
    )
]


@pytest.fixture(scope="module", params=FOUND, ids=lambda b: str(b and f"{b.module}-{b.folder}"))
def bindings(request: pytest.FixtureRequest) -> Bindings:
    found: Bindings = request.param
    return found


def names_in_code() -> set[str]:
    """Every `trt.Class.member` that the sources write."""
    names = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            parts: list[str] = []
            while isinstance(node, ast.Attribute):
                parts.insert(0, node.attr)
                node = node.value
            if isinstance(node, ast.Name) and node.id == "trt" and parts:
                names.add(".".join(parts))
            elif "module" in parts[:-1]:  # backend.module.Class.member
                names.add(".".join(parts[parts.index("module") + 1 :]))
    return {name for name in names if not name.startswith("__") and "__members__" not in name}


def look(bindings: Bindings, names: list[str], scratch: Path) -> dict[str, str | None]:
    """Look names up, against empty libraries where the bindings are TensorRT's."""
    environment = dict(os.environ)
    if bindings.folder is not None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("a C compiler, to make the libraries that the bindings link to")
        text = (bindings.folder / "tensorrt_bindings" / "__init__.py").read_text()
        major = re.search(r'__version__ = "(\d+)\.', text)
        assert major is not None
        source = scratch / "stub.c"
        source.write_text(STUB)
        for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
            library = f"lib{name}.so.{major[1]}"
            command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}"]
            subprocess.run([*command, "-o", str(scratch / library), str(source)], check=True)
        environment["LD_LIBRARY_PATH"] = str(scratch)
        environment["PYTHONPATH"] = str(bindings.folder)
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOOK, bindings.module, json.dumps(names)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    found: dict[str, str | None] = json.loads(shown.stdout)["found"]
    return found


def test_the_bindings_have_what_the_code_calls(bindings: Bindings, tmp_path: Path) -> None:
    names = {n for n in names_in_code() if bindings.is_rtx or n.split(".")[0] not in RTX_NAMES}
    assert "NetworkDefinitionCreationFlag.STRONGLY_TYPED" in names  # the search finds something
    for table in (USED, RTX_ONLY) if bindings.is_rtx else (USED,):
        names |= {f"{owner}.{name}" for owner, own in table.items() for name in own.split()}
    found = look(bindings, sorted(names), tmp_path)
    assert [name for name, doc in found.items() if doc is None] == []


def test_calls_take_the_arguments_that_the_code_gives(bindings: Bindings, tmp_path: Path) -> None:
    found = look(bindings, sorted(SIGNATURES), tmp_path)
    wrong = {n: found[n] for n, want in SIGNATURES.items() if not re.search(want, found[n] or "")}
    assert wrong == {}
