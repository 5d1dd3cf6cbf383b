"""`export.json`: what a folder of exported graphs and engines holds, and what it was made from.

A runtime reads it before it loads anything: a graph of other weights, shapes or precision is
refused by name. It comes from outside, so that every value is checked and no path leads out of its
folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aid_robot.errors import EngineError

MANIFEST = "export.json"
_FORMAT = 1

# Names of precisions, as on the command line, and torch's dtypes.
PRECISIONS: Mapping[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
ADAPTERS = ("folded", "inputs")
# What matrix products and convolutions may be rounded to beside, by scales out of a calibration.
QUANTIZATIONS = ("int8", "fp8")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph."""

    name: str
    # "float32", "float16", "bfloat16" or "int64"
    dtype: str
    # A number where the size is fixed, the name of the dimension where it isn't.
    shape: tuple[int | str, ...]
    meaning: str
    units: str = ""

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def accepts(self, shape: Iterable[int]) -> bool:
        """Tell whether a tensor of this shape fits."""
        sizes = tuple(shape)
        return len(sizes) == len(self.shape) and all(
            isinstance(own, str) or own == size for own, size in zip(self.shape, sizes, strict=True)
        )


@dataclass(frozen=True)
class Graph:
    """One ONNX graph: its files, its interface and the weights inside."""

    # File beside export.json, and the file of its weights where they are apart.
    file: str
    data: str | None
    # SHA-256 of those files.
    sha256: Mapping[str, str]
    # "fp32", "fp16" or "bf16": what the graph computes in, but for what is quantised.
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    # Digest of the weights inside, by the dtype they are loaded in (see `digest_weights`).
    weights: Mapping[str, str]
    # Parameter of the torch module -> how the graph calls it, for refitting an engine. None of a
    # quantised graph's: its scales fit the weights inside alone.
    names: Mapping[str, Weight] = field(default_factory=dict)
    # "int8" or "fp8": to what most of its products are rounded. None where it isn't quantised.
    quantization: str | None = None

    @property
    def arithmetic(self) -> str:
        """The coarsest numbers that it computes in: its quantisation, else its precision."""
        return self.quantization or self.precision


@dataclass(frozen=True)
class Weight:
    """Where a parameter of the torch module is in a graph."""

    initializer: str
    # The graph holds it with its last two axes swapped.
    transposed: bool = False


@dataclass(frozen=True)
class Manifest:
    """What `export.json` says."""

    # The model as it was named when exported.
    model: str
    precision: str
    # "folded": all weights are in the graph; "inputs": what AID trained comes in with each call.
    adapters: str
    opset: int
    # The model's config, plain values as in aid/config.json.
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    # By role: "denoiser", "context", "dqformer", "draft", "image_encoder", "text_encoder",
    # "vae_encoder", "vae_decoder".
    graphs: Mapping[str, Graph]
    # Engines built from the graphs, by backend; their builder knows what it wrote.
    engines: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arithmetic(self) -> str:
        """The coarsest numbers of the denoiser, of a folder without one its precision."""
        denoiser = self.graphs.get("denoiser")
        return self.precision if denoiser is None else denoiser.arithmetic

    def save(self, folder: Path) -> Path:
        """Write `export.json`, whole or not at all."""
        path = folder / MANIFEST
        values = {"format": _FORMAT, **asdict(self)}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(values, indent=1, sort_keys=False) + "\n")
        partial.replace(path)
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            EngineError: There is none, or it is damaged or of another format.
        """
        path = Path(folder).expanduser() / MANIFEST
        if not path.is_file():
            raise EngineError(
                f"there is no {path}: expected a folder that was made by 'aid-robot export onnx'"
            )
        try:
            values = json.loads(path.read_text())
            if not isinstance(values, dict) or values.pop("format") != _FORMAT:
                raise ValueError(f"it is not of format {_FORMAT}")
            return _parse(values)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise EngineError(
                f"{path} is damaged ({type(error).__name__}: {error}): export the model again"
            ) from error

    def graph(self, role: str) -> Graph:
        """Return a graph by its role."""
        if role not in self.graphs:
            raise EngineError(
                f"the export holds no graph '{role}', only {', '.join(self.graphs) or 'none'}: "
                f"export it again with --graphs {role}"
            )
        return self.graphs[role]

    def check_files(self, folder: Path, role: str) -> Path:
        """Check a graph's files by their SHA-256 and return the path of the graph."""
        graph = self.graph(role)
        for name, expected in graph.sha256.items():
            path = folder / name
            if not path.is_file():
                raise EngineError(f"{path} is missing, though {MANIFEST} lists it: export it again")
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != expected:
                raise EngineError(
                    f"{path} does not have the SHA-256 that {MANIFEST} records: it was damaged or "
                    "replaced; copy it again or export it again"
                )
        return folder / graph.file

    def check_weights(self, role: str, state: Mapping[str, Tensor]) -> None:
        """Compare the weights inside a graph with a model's.

        Args:
            role: Of the graph.
            state: The model's weights that such a graph holds, as `export.graphs` names them.
        """
        dtype = dtype_name(next(iter(state.values())).dtype)
        known = self.graph(role).weights
        if dtype not in known:
            raise EngineError(
                f"the model was loaded in {dtype}, and the export of '{self.model}' knows its "
                f"weights in {', '.join(known)}: load it in one of those"
            )
        if digest_weights(state) != known[dtype]:
            raise EngineError(
                f"the {role} was exported from other weights ('{self.model}') than the model has: "
                "export this model, or load the one that was exported"
            )


def dtype_name(dtype: torch.dtype) -> str:
    """Name a dtype as manifests do, such as "float32"."""
    return str(dtype).removeprefix("torch.")


def digest_weights(state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """Return the SHA-256 of weights with their names and shapes, as they are in a dtype.

    Rounding from float32 is exact in what it gives, so that a model loaded in a smaller dtype has
    the digest of the same checkpoint in that dtype.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        plain = tensor.to("cpu", dtype or tensor.dtype).contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digests_by_dtype(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the digests of weights in every dtype that their own can be rounded to."""
    own = next(iter(state.values())).dtype
    dtypes = PRECISIONS.values() if own == torch.float32 else (own,)
    return {dtype_name(dtype): digest_weights(state, dtype) for dtype in dtypes}


# -- reading what came from outside --------------------------------------------------------------


def _parse(values: dict[str, Any]) -> Manifest:
    graphs = {str(role): _graph(graph) for role, graph in dict(values.pop("graphs")).items()}
    manifest = Manifest(**values, graphs=graphs)
    _expect(manifest.precision in PRECISIONS, f"precision is {manifest.precision!r}")
    _expect(manifest.adapters in ADAPTERS, f"adapters is {manifest.adapters!r}")
    _expect(type(manifest.opset) is int, f"opset is {manifest.opset!r}")
    for name in ("config", "versions", "engines"):
        _expect(isinstance(getattr(manifest, name), dict), f"{name} is no table")
    _expect(isinstance(manifest.model, str), f"model is {manifest.model!r}")
    return manifest


def _graph(values: dict[str, Any]) -> Graph:
    values = dict(values)
    for name in ("inputs", "outputs"):
        values[name] = tuple(_spec(spec) for spec in values[name])
    values["names"] = {str(k): Weight(**dict(v)) for k, v in dict(values["names"]).items()}
    graph = Graph(**values)
    _expect(graph.precision in PRECISIONS, f"precision is {graph.precision!r}")
    known = (None, *QUANTIZATIONS)
    _expect(graph.quantization in known, f"quantization is {graph.quantization!r}")
    files = [graph.file, *([graph.data] if graph.data is not None else [])]
    for name in files:
        plain = isinstance(name, str) and name == Path(name).name and name not in ("", ".", "..")
        _expect(plain, f"{name!r} is no file name")
    _expect(set(dict(graph.sha256)) == set(files), "its checksums are of other files")
    _expect(isinstance(graph.weights, dict), "weights is no table")
    return graph


def _spec(values: dict[str, Any]) -> TensorSpec:
    spec = TensorSpec(**{**values, "shape": tuple(values["shape"])})
    _expect(spec.dtype in ("float32", "float16", "bfloat16", "int64"), f"dtype is {spec.dtype!r}")
    sized = all(isinstance(d, str) or (type(d) is int and d > 0) for d in spec.shape)
    _expect(sized and isinstance(spec.name, str), f"tensor {spec.name!r} has shape {spec.shape}")
    return spec


def _expect(fits: bool, otherwise: str) -> None:
    if not fits:
        raise ValueError(otherwise)
