"""A loaded TensorRT engine: torch tensors in, torch tensors out, on the same memory.

Inputs lie at fixed addresses, one set a batch size, so that a step can be replayed as a CUDA graph:
captured by torch for TensorRT, by the library itself for RTX. Contexts of all batch sizes share one
scratch memory, for they run one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aid_robot.errors import EngineError, RuntimeUnavailableError
from aid_robot.runtime.buffers import InputBuffers, Recent
from aid_robot.runtime.manifest import Graph, Manifest
from aid_robot.runtime.trt_fingerprint import (
    REBUILD,
    Device,
    Fingerprint,
    check_device,
    find_fingerprint,
    read_plan,
)
from aid_robot.runtime.trt_library import Backend, MessageLog

_WARM_UP_CALLS = 3


def check_cuda(device: torch.device, what: str = "TensorRT engines") -> Device:
    """Return the GPU of a CUDA device, or say that there is none.

    Raises:
        RuntimeUnavailableError: The device isn't CUDA's, or torch sees no GPU.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        seen = "sees one" if torch.cuda.is_available() else "sees none"
        raise RuntimeUnavailableError(
            f"{what} run on an NVIDIA GPU, the model is on '{device}' and torch "
            f"{torch.__version__} {seen}: load it with device='cuda' on a machine that has one, or "
            "use runtime='torch' or 'ort'"
        )
    major, minor = torch.cuda.get_device_capability(device)
    return Device(torch.cuda.get_device_name(device), f"{major}.{minor}")


class Engine:
    """One engine on one GPU. Calls of several threads take turns.

    Args:
        folder: Has `export.json` and the plan.
        manifest: What it says.
        role: Of the graph, such as "denoiser".
        backend: Who loads it.
        device: Where it runs.
        fixed: Inputs that are the same in every call, such as adapters; they are bound where they
            lie, and may be written to in place.
        changing: Inputs that differ from call to call; others are copied where they are new.
        cuda_graph: Start a step's kernels all at once.

    Raises:
        EngineError: The engine is damaged, or of another machine, release or model.
        RuntimeUnavailableError: There is no GPU.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        role: str,
        backend: Backend,
        device: torch.device,
        *,
        fixed: Mapping[str, Tensor] | None = None,
        changing: tuple[str, ...] = (),
        cuda_graph: bool = True,
    ) -> None:
        self.fingerprint = find_fingerprint(manifest, role, backend)
        gpu = check_cuda(device)
        check_device(self.fingerprint, gpu)
        plan = read_plan(folder, self.fingerprint)

        self._graph, self._backend, self._device = manifest.graph(role), backend, device
        self._fixed, self._changing = dict(fixed or {}), changing
        self._cuda_graph = cuda_graph
        self._log = MessageLog(backend)
        self._lock = threading.Lock()
        self._bound: Recent[_Bound] = Recent()
        with torch.cuda.device(device):
            runtime = backend.module.Runtime(self._log.logger)
            if backend.is_rtx:
                _check_validity(backend, runtime, plan, self.fingerprint, gpu)
            self._engine = runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineError(
                    f"{backend} can't load {self.fingerprint.file} on this {gpu.name}: "
                    f"{self._log.last()}: {REBUILD}"
                )
            self._runtime = runtime  # outlives its engines
            check_interface(backend, self._engine, self._graph, self.fingerprint)
            self._stream = torch.cuda.Stream(device)
            self._scratch = torch.empty(
                max(1, self._engine.device_memory_size_v2), dtype=torch.uint8, device=device
            )

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once; the inputs are named as in the graph, the fixed ones left out."""
        key = tuple((name, tensor.shape, tensor.dtype) for name, tensor in inputs.items())
        caller = torch.cuda.current_stream(self._device)
        with self._lock, torch.cuda.device(self._device):
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                bound = self._bound.get(key, lambda: self._bind(inputs))
                bound.inputs.fill(inputs)
                if bound.graph is not None:
                    bound.graph.replay()
                else:
                    self._execute(bound.context)
                outputs = {name: tensor.clone() for name, tensor in bound.outputs.items()}
            caller.wait_stream(self._stream)
        return outputs

    def refit(self, weights: Mapping[str, Tensor]) -> None:
        """Replace weights, by their names in the graph, in place of a rebuild.

        Raises:
            EngineError: The engine was not built for it, or takes no such weights.
        """
        if not self.fingerprint.refittable:
            raise EngineError(
                f"{self.fingerprint.file} can't be refitted: build it with --build-enable-refit, "
                "or export with --adapters inputs"
            )
        trt = self._backend.module
        with self._lock, torch.cuda.device(self._device):
            torch.cuda.synchronize(self._device)
            self._bound = Recent()  # captured steps may hold the old weights
            refitter = trt.Refitter(self._engine, self._log.logger)
            kept = []  # TensorRT reads them only when it refits
            for name, tensor in weights.items():
                tensor = tensor.detach().contiguous().cpu()
                kept.append(tensor)
                kind = trt_dtype(self._backend, tensor.dtype)
                given = trt.Weights(kind, tensor.data_ptr(), tensor.numel())
                if not refitter.set_named_weights(name, given):
                    raise EngineError(
                        f"{self.fingerprint.file} takes no weights '{name}' of {tensor.dtype} "
                        f"{tuple(tensor.shape)}: {self._log.last()}; {REBUILD}"
                    )
            if not refitter.refit_cuda_engine():
                missing = ", ".join(refitter.get_missing_weights()) or self._log.last()
                raise EngineError(f"{self.fingerprint.file} can't be refitted alone: {missing}")

    def _bind(self, inputs: Mapping[str, Tensor]) -> _Bound:
        """Make a context for these shapes, with memory of its own for inputs and outputs."""
        check_inputs(self._graph, self.fingerprint, {**self._fixed, **inputs})
        self._stream.synchronize()  # what is forgotten for this one may still run
        context = self._new_context()
        buffers = InputBuffers(inputs, self._changing)
        buffers.fill(inputs)
        for name, tensor in {**self._fixed, **buffers.tensors}.items():
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineError(
                    f"{self.fingerprint.file} refuses '{name}' of {tuple(tensor.shape)}: "
                    f"{self._log.last()}"
                )
            context.set_tensor_address(name, tensor.data_ptr())
        outputs = {}
        for spec in self._graph.outputs:
            shape = tuple(context.get_tensor_shape(spec.name))
            outputs[spec.name] = torch.empty(shape, dtype=spec.torch_dtype, device=self._device)
            context.set_tensor_address(spec.name, outputs[spec.name].data_ptr())
        for _ in range(_WARM_UP_CALLS):  # compiles and tunes, which no capture may
            self._execute(context)
        self._stream.synchronize()
        graph = None
        if self._cuda_graph and not self._backend.is_rtx:
            graph = torch.cuda.CUDAGraph()
            # Other threads may allocate meanwhile.
            mode = "thread_local"
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode=mode):
                self._execute(context)
        return _Bound(context, buffers, outputs, graph)

    def _new_context(self) -> Any:
        trt = self._backend.module
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._backend.is_rtx:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            kernels = trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
            if self._cuda_graph:
                config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(
                f"{self.fingerprint.file} can't start: {self._log.last()}; free memory of the GPU, "
                f"or {REBUILD} for a smaller --max-batch-size"
            )
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        return context

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._stream.cuda_stream):
            raise EngineError(f"{self.fingerprint.file} failed: {self._log.last()}")


@dataclass
class _Bound:
    """One batch size: a context, its inputs and outputs, and the captured step."""

    context: Any
    inputs: InputBuffers
    outputs: dict[str, Tensor]
    graph: torch.cuda.CUDAGraph | None


def check_inputs(graph: Graph, fingerprint: Fingerprint, inputs: Mapping[str, Tensor]) -> None:
    """Compare a call's inputs with what an engine takes.

    Raises:
        EngineError: Naming the input, and what was expected.
    """
    if set(inputs) != {spec.name for spec in graph.inputs}:
        known = {spec.name for spec in graph.inputs}
        missing, foreign = sorted(known - set(inputs)), sorted(set(inputs) - known)
        raise EngineError(
            f"{fingerprint.file} is called without {', '.join(missing) or 'nothing'} and with "
            f"{', '.join(foreign) or 'nothing'} that it doesn't know: {REBUILD} from this model"
        )
    for spec in graph.inputs:
        tensor, sizes = inputs[spec.name], fingerprint.shapes[spec.name]
        if tensor.dtype != spec.torch_dtype:
            raise EngineError(
                f"input '{spec.name}' is {tensor.dtype}, {fingerprint.file} takes {spec.dtype}: "
                f"load the model with that dtype, or {REBUILD}"
            )
        if not sizes.takes(tuple(tensor.shape)):
            if not sizes.takes((sizes.best[0], *tensor.shape[1:])):
                raise EngineError(
                    f"input '{spec.name}' is {tuple(tensor.shape)}, {fingerprint.file} takes "
                    f"{sizes.smallest} to {sizes.largest}: {REBUILD} from this model"
                )
            raise EngineError(
                f"input '{spec.name}' is {tuple(tensor.shape)}, {fingerprint.file} takes "
                f"{sizes.smallest} to {sizes.largest}: choose batch_size so that rows (branches x "
                f"candidates) stay within {fingerprint.rows[0]} to {fingerprint.rows[2]}, or "
                f"{REBUILD} with a larger --max-batch-size"
            )


def check_interface(backend: Backend, engine: Any, graph: Graph, fingerprint: Fingerprint) -> None:
    """Compare what a loaded engine says of itself with the manifest."""
    mode = backend.module.TensorIOMode
    found = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        found[name] = (engine.get_tensor_mode(name), engine.get_tensor_dtype(name))
    expected = {
        spec.name: (direction, trt_dtype(backend, spec.torch_dtype))
        for specs, direction in ((graph.inputs, mode.INPUT), (graph.outputs, mode.OUTPUT))
        for spec in specs
    }
    wrong = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
    if wrong:
        raise EngineError(
            f"{fingerprint.file} has other inputs and outputs than export.json lists "
            f"({', '.join(wrong[:4])}): {REBUILD}"
        )


def trt_dtype(backend: Backend, dtype: torch.dtype) -> Any:
    """Return TensorRT's name of a torch dtype."""
    kinds = backend.module.DataType
    known = {
        torch.float32: kinds.FLOAT,
        torch.float16: kinds.HALF,
        torch.bfloat16: kinds.BF16,
        torch.int64: kinds.INT64,
    }
    if dtype not in known:
        raise EngineError(
            f"{backend} takes no {dtype} here: export in float32, float16 or bfloat16"
        )
    return known[dtype]


def _check_validity(
    backend: Backend, runtime: Any, plan: memoryview, fingerprint: Fingerprint, gpu: Device
) -> None:
    """Ask TensorRT-RTX whether an engine fits this machine: it compiles for the GPU at hand."""
    trt = backend.module
    validity, problems = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return
    bits = int(problems)
    known = trt.EngineInvalidityDiagnostics.__members__
    causes = [name.lower().replace("_", " ") for name, bit in known.items() if bits & int(bit)]
    raise EngineError(
        f"{fingerprint.file}, built for compute capability {', '.join(fingerprint.capabilities)}, "
        f"does not run on this {gpu.name} of {gpu.capability} with {backend}: "
        f"{', '.join(causes) or 'no reason given'}; {REBUILD} on this machine"
    )
