"""ONNX Runtime: the exported UNet on a CPU, by CUDA, or by its TensorRT provider.

Inputs and outputs are bound by pointer, so that nothing is copied on the way. The provider that
really runs is compared with the one asked for: ONNX Runtime itself only logs when one is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aid_robot.errors import EngineError, RuntimeUnavailableError
from aid_robot.extras import require
from aid_robot.model.aid import AIDModel
from aid_robot.model.unet import LayerContext
from aid_robot.runtime.denoiser import NetworkDenoiser
from aid_robot.runtime.manifest import Graph, Manifest
from aid_robot.runtime.unet_graph import (
    OUTPUT,
    SAMPLE,
    TIME_IDS,
    TIMESTEP,
    check_handed,
    check_size,
    flatten_context,
    split_weights,
)

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_PACKAGES = ("onnxruntime", "onnxruntime-gpu")
# Numbers of element types in ONNX.
_ELEMENT = {torch.float32: 1, torch.int64: 7, torch.float16: 10, torch.bfloat16: 16}


class OrtGraph:
    """One exported graph in an ONNX Runtime session. Threads may share it."""

    def __init__(
        self, folder: Path, manifest: Manifest, role: str, device: torch.device, provider: str
    ) -> None:
        self.graph: Graph = manifest.graph(role)
        self._device = device
        path = manifest.check_files(folder, role)
        exact = self.graph.precision == "fp32" and self.graph.quantization is None
        self._session = open_session(path, provider, device, exact=exact)

    def __call__(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph on tensors by the names of its inputs."""
        binding = self._session.io_binding()
        held = []  # what is bound must outlive the run
        sizes: dict[str, int] = {}
        for spec in self.graph.inputs:
            tensor = feeds[spec.name]
            if not spec.accepts(tensor.shape):
                raise EngineError(
                    f"{self.graph.file} takes '{spec.name}' as {spec.shape}, got "
                    f"{tuple(tensor.shape)}: export this model at this size"
                )
            sizes |= {n: s for n, s in zip(spec.shape, tensor.shape, strict=True) if type(n) is str}
            tensor = tensor.detach().to(self._device, spec.torch_dtype).contiguous()
            held.append(tensor)
            self._bind(binding.bind_input, spec.name, tensor)
        outputs = {}
        for spec in self.graph.outputs:
            shape = [sizes[size] if isinstance(size, str) else size for size in spec.shape]
            outputs[spec.name] = torch.empty(shape, dtype=spec.torch_dtype, device=self._device)
            self._bind(binding.bind_output, spec.name, outputs[spec.name])
        if self._device.type == "cuda":  # the session runs on a stream of its own
            torch.cuda.current_stream(self._device).synchronize()
        self._session.run_with_iobinding(binding)
        return outputs

    def _bind(self, bind: Any, name: str, tensor: Tensor) -> None:
        bind(
            name,
            self._device.type,
            self._device.index or 0,
            _ELEMENT[tensor.dtype],
            tuple(tensor.shape),
            tensor.data_ptr(),
        )


class OrtNetwork:
    """The exported UNet."""

    def __init__(self, graph: OrtGraph, weights: Mapping[str, Tensor]) -> None:
        self._graph = graph
        self._weights = dict(weights)

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Sequence[LayerContext],
        added_time_ids: Tensor,
    ) -> Tensor:
        """Run the UNet; see `aid_robot.model.aid.Network`."""
        inputs = {SAMPLE: sample, TIMESTEP: timestep, TIME_IDS: added_time_ids}
        return self._graph({**inputs, **flatten_context(context), **self._weights})[OUTPUT]


def make(model: AIDModel, engines: Path | None, variant: str | None) -> NetworkDenoiser:
    """Make the runtime "ort"; a variant names the provider, else the model's device does."""
    assert engines is not None
    device = model.device
    provider = variant or device.type
    if provider not in _PROVIDERS or (provider == "cpu") != (device.type == "cpu"):
        raise RuntimeUnavailableError(
            f"runtime 'ort:{provider}' can't run a model that is on {device.type}: load it with "
            f"device='{'cuda' if provider in ('cuda', 'tensorrt') else 'cpu'}'"
        )
    manifest = Manifest.load(engines)
    check_size(manifest.graph("denoiser"), model)
    inside, handed = split_weights(model.unet, manifest.adapters)
    manifest.check_weights("denoiser", inside)
    graph = OrtGraph(engines, manifest, "denoiser", device, provider)
    dtype = {spec.name: spec.torch_dtype for spec in graph.graph.inputs}
    check_handed(graph.graph, manifest, handed)
    weights = {name: tensor.to(dtype[name]).contiguous() for name, tensor in handed.items()}
    return NetworkDenoiser(OrtNetwork(graph, weights), dtype[SAMPLE], model.config.prediction_type)


def check_packages() -> None:
    """Refuse two onnxruntime packages at once: they share a folder and break each other."""
    found = {
        (package.metadata["Name"] or "").lower().replace("_", "-") for package in distributions()
    }
    if found.issuperset(_PACKAGES):
        raise RuntimeUnavailableError(
            "onnxruntime and onnxruntime-gpu are both installed and break each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'aid-robot[cpu]' or "
            "'aid-robot[gpu]'"
        )


def open_session(path: Path, provider: str, device: torch.device, *, exact: bool = False) -> Any:
    """Open a graph with one provider, and make sure that it is the one that runs.

    `exact` keeps CUDA from rounding float32 to TF32.

    Raises:
        RuntimeUnavailableError: The provider is not there, or ONNX Runtime chose another.
        EngineError: The graph is damaged, or has an operator that the provider lacks.
    """
    if provider not in _PROVIDERS:
        raise RuntimeUnavailableError(
            f"ONNX Runtime has no provider for '{provider}' here; there are {', '.join(_PROVIDERS)}"
        )
    check_packages()
    ort = require("onnxruntime", "cpu" if provider == "cpu" else "gpu")
    name = _PROVIDERS[provider]
    available = ort.get_available_providers()
    if name not in available:
        raise RuntimeUnavailableError(
            f"this onnxruntime {ort.__version__} has no {name}, only {', '.join(available)}: "
            "pip uninstall -y onnxruntime, then pip install 'aid-robot[gpu]'"
        )
    if provider != "cpu":
        ort.preload_dlls()  # CUDA's libraries, from torch's own packages
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    settings = {} if provider == "cpu" else {"device_id": str(device.index or 0)}
    on_cuda = {**settings, "use_tf32": "0"} if exact else settings
    providers: list[Any] = [(name, on_cuda if provider == "cuda" else settings)]
    if provider == "tensorrt":  # takes operators that TensorRT leaves
        providers.append((_PROVIDERS["cuda"], on_cuda))
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the bindings raise classes of their own, and RuntimeError
        reason = str(error).strip().splitlines()[0]
        lacks = ("find an implementation", "not a registered function", "tensor(bfloat16)")
        if any(words in reason for words in lacks):
            raise EngineError(
                f"{path} has an operator that {name} lacks ({reason}): export it in another "
                "precision (a CPU takes fp32 or fp16), or run it by another runtime"
            ) from error
        raise EngineError(f"{path} can't be opened by onnxruntime ({reason})") from error
    running = session.get_providers()[0]
    if running != name:
        raise RuntimeUnavailableError(
            f"{name} was asked for and onnxruntime runs {running}: its libraries or the GPU are "
            "missing; see that 'nvidia-smi' works, or choose another runtime"
        )
    return session
