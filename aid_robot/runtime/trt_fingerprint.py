"""What an engine was built for, written beside it and checked before it is loaded.

A TensorRT plan belongs to one release of the library and, unless it was built ahead of time, to one
kind of GPU; a plan of anything else fails late and says little. Everything here comes from a file
and is checked as such.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from aid_robot.errors import EngineError
from aid_robot.runtime.manifest import MANIFEST, Manifest
from aid_robot.runtime.trt_library import Backend

_HASHED_AT_ONCE = 1 << 22
REBUILD = "build it again with 'aid-robot export trt'"


@dataclass(frozen=True)
class ShapeRange:
    """Smallest, best and largest shape of an input."""

    smallest: tuple[int, ...]
    best: tuple[int, ...]
    largest: tuple[int, ...]

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a shape lies in the range."""
        return len(shape) == len(self.smallest) and all(
            low <= size <= high
            for low, size, high in zip(self.smallest, shape, self.largest, strict=True)
        )


@dataclass(frozen=True)
class Fingerprint:
    """One engine."""

    # File beside export.json, its size and SHA-256.
    file: str
    size: int
    sha256: str
    # "tensorrt" or "tensorrt_rtx", and the release that built it, which alone can load it.
    backend: str
    version: str
    # Compute capabilities that it was built for, such as "8.9".
    capabilities: tuple[str, ...]
    # GPU and driver that it was built on; None where it was built ahead of time, without one.
    gpu: str | None
    driver: str | None
    # "fp32", "fp16" or "bf16".
    precision: str
    # SHA-256 of the graph that it was built from, and of the weights in a file of their own.
    graph: Mapping[str, str]
    # By input, in the order of the graph.
    shapes: Mapping[str, ShapeRange]
    refittable: bool
    optimization_level: int
    workspace_gib: float | None
    seconds: float

    @property
    def rows(self) -> tuple[int, int, int]:
        """Smallest, best and largest batch of the first input."""
        first = next(iter(self.shapes.values()))
        return first.smallest[0], first.best[0], first.largest[0]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as written to `export.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Fingerprint:
        """Check what a file says.

        Raises:
            EngineError: It says something that no builder wrote.
        """
        try:
            return cls._parse(dict(values))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise EngineError(
                f"{MANIFEST} describes an engine wrongly ({type(error).__name__}: {error}): "
                f"{REBUILD}"
            ) from error

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> Fingerprint:
        shapes = {
            str(name): ShapeRange(*(_shape(given[f.name]) for f in fields(ShapeRange)))
            for name, given in dict(values.pop("shapes")).items()
        }
        capabilities = tuple(str(each) for each in values.pop("capabilities"))
        found = cls(**values, shapes=shapes, capabilities=capabilities)
        file = found.file
        if not isinstance(file, str) or file != Path(file).name or file in ("", ".", ".."):
            raise ValueError(f"{file!r} is no file name")
        kinds: dict[type, tuple[str, ...]] = {
            str: ("sha256", "backend", "version", "precision"),
            int: ("size", "optimization_level"),
            bool: ("refittable",),
            dict: ("graph",),
        }
        for kind, names in kinds.items():
            for name in names:
                if type(getattr(found, name)) is not kind:
                    raise ValueError(f"{name} is {getattr(found, name)!r}")
        if found.size <= 0 or not shapes or not isinstance(found.seconds, int | float):
            raise ValueError("its size, inputs or time are missing")
        return found


def _shape(values: Any) -> tuple[int, ...]:
    shape = tuple(values)
    if not shape or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"{shape} is no shape")
    return shape


@dataclass(frozen=True)
class Device:
    """The GPU that an engine is to run on."""

    name: str
    capability: str  # such as "9.0"


def find_fingerprint(manifest: Manifest, role: str, backend: Backend) -> Fingerprint:
    """Return the engine of a graph that a backend can load, of those that a folder lists.

    Raises:
        EngineError: There is none, or it was built by another release, or from another graph.
    """
    of_backend = manifest.engines.get(backend.name, {})
    if not isinstance(of_backend, dict) or role not in of_backend:
        others = ", ".join(manifest.engines) or "no backend"
        raise EngineError(
            f"the folder has no engine '{role}' for {backend.name}, only engines for {others}: "
            f"{REBUILD}, with --backend {backend.name}"
        )
    found = Fingerprint.from_dict(of_backend[role])
    if (found.backend, found.version) != (backend.name, backend.version):
        raise EngineError(
            f"{found.file} was built by {found.backend} {found.version} and {backend} is installed "
            f"here; a plan loads in its own release alone: install that one, or {REBUILD}"
        )
    graph = manifest.graph(role)
    if dict(found.graph) != dict(graph.sha256):
        raise EngineError(
            f"{found.file} was built from another '{role}' graph than {MANIFEST} lists, for it was "
            f"exported again since: {REBUILD}"
        )
    names = [spec.name for spec in graph.inputs]
    if list(found.shapes) != names or found.precision != graph.precision:
        raise EngineError(
            f"{found.file} has other inputs or another precision than its graph '{role}': {REBUILD}"
        )
    return found


def check_device(fingerprint: Fingerprint, device: Device) -> None:
    """Compare the GPU with the one that a TensorRT engine was built for.

    TensorRT-RTX compiles its engines for the GPU at hand, and its runtime is asked instead.
    """
    if fingerprint.backend == "tensorrt_rtx" or device.capability in fingerprint.capabilities:
        return
    raise EngineError(
        f"{fingerprint.file} was built for compute capability "
        f"{', '.join(fingerprint.capabilities)} ({fingerprint.gpu}), and this GPU is a "
        f"{device.name} of {device.capability}: {REBUILD} on this machine"
    )


def read_plan(folder: Path, fingerprint: Fingerprint) -> memoryview:
    """Read an engine's bytes, after its size and SHA-256 were found right."""
    path = folder / fingerprint.file
    if not path.is_file():
        raise EngineError(f"{path} is missing, though {MANIFEST} lists it: {REBUILD}")
    found = path.stat().st_size
    if found != fingerprint.size:
        raise EngineError(
            f"{path} has {found} bytes and {MANIFEST} records {fingerprint.size}: it was cut or "
            f"replaced; copy it again, or {REBUILD}"
        )
    with path.open("rb") as file:  # mapped: TensorRT copies the gigabytes that it wants
        plan = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if digest(plan) != fingerprint.sha256:
        raise EngineError(
            f"{path} does not have the SHA-256 that {MANIFEST} records: it was damaged; copy it "
            f"again, or {REBUILD}"
        )
    return plan


def digest(content: memoryview) -> str:
    """Return the SHA-256 of bytes that may be gigabytes."""
    hashed = hashlib.sha256()
    for start in range(0, len(content), _HASHED_AT_ONCE):
        hashed.update(content[start : start + _HASHED_AT_ONCE])
    return hashed.hexdigest()
