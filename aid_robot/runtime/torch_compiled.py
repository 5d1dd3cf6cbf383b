"""torch as a faster runtime: the UNet compiled, and on CUDA its launches captured as a graph.

Eager torch starts some thousand kernels a step; at small batches the GPU waits for them. A CUDA
graph starts them all at once, and `torch.compile` makes them fewer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from aid_robot.errors import RuntimeUnavailableError
from aid_robot.model.aid import AIDModel, Network
from aid_robot.model.unet import LayerContext
from aid_robot.runtime.buffers import InputBuffers, Recent
from aid_robot.runtime.denoiser import Denoiser, NetworkDenoiser
from aid_robot.runtime.unet_graph import (
    SAMPLE,
    TIME_IDS,
    TIMESTEP,
    context_names,
    flatten_context,
    unflatten_context,
)

_WARM_UP_CALLS = 3


def make(model: AIDModel, engines: Path | None, variant: str | None) -> Denoiser:
    """Make the runtimes "torch:compile" (on CUDA with a graph) and "torch:cuda-graph"."""
    network: Network = compiled(model) if variant == "compile" else model.unet
    if variant == "cuda-graph" or model.device.type == "cuda":
        network = CUDAGraphNetwork(network, model.device)
    return NetworkDenoiser(network, model.dtype, model.config.prediction_type)


def compiled(model: AIDModel, backend: str = "inductor") -> Network:
    """Return the model's UNet through `torch.compile`; the first call of a shape takes minutes.

    It shares the model's parameters, which may change in place.
    """
    return cast(Network, torch.compile(model.unet, backend=backend))


class CUDAGraphNetwork:
    """Replay a network as a CUDA graph, captured once a batch size.

    Holds a copy of the inputs of the last few batch sizes. Weights may change in place; calls of
    several threads take turns.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        if device.type != "cuda":
            raise RuntimeUnavailableError(
                f"CUDA graphs need a CUDA device, and the model is on '{device}': load it with "
                "device='cuda', or use runtime='torch'"
            )
        self._network = network
        self._captured: Recent[_Captured] = Recent()
        self._lock = threading.Lock()
        # Graphs that run one after the other, and whose outputs are kept, may share their memory.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Sequence[LayerContext],
        added_time_ids: Tensor,
    ) -> Tensor:
        """Run the UNet; see `Network`."""
        inputs = {SAMPLE: sample, TIMESTEP: timestep, TIME_IDS: added_time_ids}
        inputs |= flatten_context(context)
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs.values())
        with self._lock:
            captured = self._captured.get(
                key, lambda: _Captured(self._network, inputs, len(context), self._pool)
            )
            return captured.replay(inputs)


class _Captured:
    """The graph of one batch size, with its inputs and output."""

    def __init__(
        self, network: Network, inputs: Mapping[str, Tensor], layers: int, pool: Any
    ) -> None:
        self._inputs = InputBuffers(inputs, changing=(SAMPLE, TIMESTEP))
        self._inputs.fill(inputs)
        held = self._inputs.tensors
        context = unflatten_context([held[name] for name in context_names(layers)])

        def step() -> Tensor:
            return network(held[SAMPLE], held[TIMESTEP], context, held[TIME_IDS])

        # Streams and graphs are of the current device.
        self._device = held[SAMPLE].device
        with torch.cuda.device(self._device):
            self._graph, self._output = self._capture(step, pool)

    @staticmethod
    def _capture(step: Callable[[], Tensor], pool: Any) -> tuple[Any, Tensor]:
        # What is set up late, or tuned, must be so before the capture, on another stream.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_CALLS):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = step()
        return graph, output

    def replay(self, inputs: Mapping[str, Tensor]) -> Tensor:
        with torch.cuda.device(self._device):
            self._inputs.fill(inputs)
            self._graph.replay()
            return self._output.clone()
