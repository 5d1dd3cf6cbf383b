"""TensorRT as a runtime: the UNet as an engine, its keys and values computed by torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from aid_robot.errors import ConfigError, EngineError, MissingDependencyError
from aid_robot.model.aid import AIDModel
from aid_robot.model.unet import LayerContext
from aid_robot.runtime.denoiser import Denoiser, NetworkDenoiser
from aid_robot.runtime.manifest import Graph, Manifest
from aid_robot.runtime.trt_engine import Engine, check_cuda
from aid_robot.runtime.trt_fingerprint import REBUILD, find_fingerprint
from aid_robot.runtime.trt_library import Backend, load_backend
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

ROLE = "denoiser"


def make(model: AIDModel, engines: Path | None, variant: str | None) -> Denoiser:
    """Make the runtime "trt" from a folder of engines."""
    assert engines is not None, "the registry asks for engines"
    check_cuda(model.device)  # the plainest cause comes first
    manifest = Manifest.load(engines)
    network = TensorRTNetwork(model, engines, manifest, choose_backend(manifest))
    return NetworkDenoiser(network, network.dtype, model.config.prediction_type)


def choose_backend(manifest: Manifest) -> Backend:
    """Import the TensorRT that a folder has engines for, the ordinary one first.

    Raises:
        EngineError: It has none.
        MissingDependencyError: What its engines need is not installed.
    """
    if not manifest.engines:
        raise EngineError(
            "the folder has graphs but no engines: build them with 'aid-robot export trt', or use "
            "runtime='ort'"
        )
    problems = []
    for name in sorted(manifest.engines):
        try:
            return load_backend(name)
        except ConfigError as error:  # a name that no builder wrote
            raise EngineError(f"export.json lists engines of an unknown kind: {error}") from error
        except MissingDependencyError as error:
            problems.append(str(error))
    raise MissingDependencyError("; ".join(problems))


class TensorRTNetwork:
    """The UNet as a TensorRT engine; see `aid_robot.model.aid.Network`.

    One engine serves every domain: where the graph is handed what AID trained, or the engine can be
    refitted, `load_weights` swaps it without a rebuild.
    """

    def __init__(
        self,
        model: AIDModel,
        folder: Path,
        manifest: Manifest,
        backend: Backend,
        *,
        cuda_graph: bool = True,
    ) -> None:
        self._graph = manifest.graph(ROLE)
        kinds = {spec.name: spec.torch_dtype for spec in self._graph.inputs}
        self.dtype = kinds[SAMPLE]
        inside, handed = split_weights(model.unet, manifest.adapters)
        # Before gigabytes are read.
        check_size(self._graph, model)
        check_handed(self._graph, manifest, handed)
        if not find_fingerprint(manifest, ROLE, backend).refittable:
            manifest.check_weights(ROLE, inside)
        self._handed = {
            name: tensor.to(kinds.get(name, self.dtype), copy=True).contiguous()
            for name, tensor in handed.items()
        }
        self._engine = Engine(
            folder,
            manifest,
            ROLE,
            backend,
            model.device,
            fixed=self._handed,
            changing=(SAMPLE, TIMESTEP),
            cuda_graph=cuda_graph,
        )
        if self._engine.fingerprint.refittable:
            self._engine.refit(graph_weights(self._graph, inside))

    @property
    def rows(self) -> tuple[int, int, int]:
        """Smallest, best and largest batch."""
        return self._engine.fingerprint.rows

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Sequence[LayerContext],
        added_time_ids: Tensor,
    ) -> Tensor:
        """Run the UNet; see `Network`."""
        named = flatten_context(context)
        if any(tensor.dtype != self.dtype for tensor in named.values()):
            named = {name: tensor.to(self.dtype) for name, tensor in named.items()}
        inputs = {SAMPLE: sample, TIMESTEP: timestep, TIME_IDS: added_time_ids}
        return self._engine.run({**inputs, **named})[OUTPUT]

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Swap what AID trained, named as the UNet's parameters; the engine stays as it is.

        Keys and values of the cross-attention are none of the engine's.

        Raises:
            EngineError: The engine has other weights, or can't swap any.
        """
        if self._handed:
            swap_in_place(self._handed, weights)
        else:
            self._engine.refit(graph_weights(self._graph, weights))


def graph_weights(graph: Graph, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as a graph calls and holds them, in its precision.

    Raises:
        EngineError: The graph doesn't know some of them by name.
    """
    foreign = sorted(set(weights) - set(graph.names))
    if foreign:
        raise EngineError(
            f"{graph.file} has no names for {len(foreign)} of the weights, such as "
            f"{', '.join(foreign[:3])}: export the model again and {REBUILD}"
        )
    dtype = next(spec.torch_dtype for spec in graph.inputs if spec.name == SAMPLE)
    found = {}
    for name, tensor in weights.items():
        where = graph.names[name]
        turned = tensor.transpose(-1, -2) if where.transposed else tensor
        found[where.initializer] = turned.to(dtype).contiguous()
    return found


def swap_in_place(held: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Write weights over those that an engine reads, all of them or none.

    Raises:
        EngineError: Names or shapes differ.
    """
    wrong = sorted(
        name
        for name in held.keys() | given.keys()
        if name not in held or name not in given or held[name].shape != given[name].shape
    )
    if wrong:
        raise EngineError(
            f"the engine takes {len(held)} weights, and {len(wrong)} of those given are missing, "
            f"unknown or of another shape, such as {', '.join(wrong[:3])}: give the adapters of a "
            "model of the same config"
        )
    for name, tensor in held.items():
        tensor.copy_(given[name])
