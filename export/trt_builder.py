"""From an ONNX graph to a TensorRT plan, by the API that TensorRT 10.16, 11 and RTX share.

Networks are strongly typed: precision is what the graph says, and no flag changes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aid_robot.errors import ConfigError, ExportError
from aid_robot.runtime.manifest import Graph
from aid_robot.runtime.measure import driver_version
from aid_robot.runtime.trt_fingerprint import Fingerprint, ShapeRange, digest
from aid_robot.runtime.trt_library import Backend, MessageLog

# The first GPUs that multiply in fp8: Ada and Hopper.
_FP8_CAPABILITY = (8, 9)
# What TensorRT-RTX can name as a target; its default list is these without Turing.
RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
_MAX_LEVEL = 5


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built; the defaults are TensorRT's own."""

    # Smallest, best and largest size of every symbolic dimension, by its name.
    ranges: Mapping[str, tuple[int, int, int]]
    # 0 (builds fast) to 5 (runs fastest); None leaves it to TensorRT.
    optimization_level: int | None = None
    # Most memory that a layer may take while it runs; None is all that there is.
    workspace_gib: float | None = None
    # Compute capabilities to build for without a GPU (RTX only); None is the GPU at hand, or for
    # RTX without one all that it can name.
    capabilities: tuple[str, ...] | None = None
    # Let adapters be swapped by refitting; needs a GPU while building.
    refit: bool = False
    # Measured kernels of earlier builds, read and written.
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        for name, (low, best, high) in self.ranges.items():
            if not 1 <= low <= best <= high:
                raise ConfigError(
                    f"sizes of '{name}' are {low}, {best}, {high}; expected smallest <= best <= "
                    "largest, from 1"
                )
        level = self.optimization_level
        if level is not None and not 0 <= level <= _MAX_LEVEL:
            raise ConfigError(f"optimization level {level} must be 0 to {_MAX_LEVEL}")
        if self.workspace_gib is not None and self.workspace_gib <= 0:
            raise ConfigError(f"a workspace of {self.workspace_gib} GiB must be positive")


def plan_name(role: str, backend: Backend) -> str:
    """Name the file of an engine."""
    return f"{role}.{backend.name}.plan"


def build_engine(
    role: str,
    graph: Graph,
    onnx_path: Path,
    engine_dir: Path,
    backend: Backend,
    options: BuildOptions,
    *,
    progress: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Fingerprint:
    """Build the engine of one graph and write it, whole or not at all.

    Args:
        role: What the graph does, such as "denoiser".
        graph: Its interface, out of the manifest.
        onnx_path: The graph; external data lies beside it.
        engine_dir: Where the plan goes.
        backend: Who builds it.
        options: How.
        progress: Show a bar for each phase.
        say: Is told what a user should know, a line each.

    Raises:
        ExportError: The graph has an operator that TensorRT lacks, or can't be built.
        ConfigError: The options can't be met on this machine.
    """
    check_machine(backend, options)  # minutes of parsing come only after these
    check_quantised(graph, options)
    shapes = shape_ranges(graph, options.ranges)
    started = time.perf_counter()
    trt = backend.module
    log = MessageLog(backend)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(backend, network, onnx_path, log)

    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, given in shapes.items():
        profile.set_shape(name, given.smallest, given.best, given.largest)
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT refuses the shapes of '{role}': {log.last()}")
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace_gib is not None:
        config.set_memory_pool_limit(
            trt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30)
        )
    if graph.precision == "fp32":  # the reference: not rounded to TF32's 10 bits
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    _set_targets(backend, config, options)

    cached = _timing_cache(backend, config, options.timing_cache, say)
    with cached, _bar(backend, config, progress):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"{backend} could not build '{role}': {log.last()}")
    content = memoryview(plan)
    path = engine_dir / plan_name(role, backend)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    gpu, driver = _gpu()
    return Fingerprint(
        file=path.name,
        size=content.nbytes,
        sha256=digest(content),
        backend=backend.name,
        version=backend.version,
        capabilities=targets(options),
        gpu=gpu,
        driver=driver,
        precision=graph.precision,
        graph=dict(graph.sha256),
        shapes=shapes,
        refittable=options.refit,
        optimization_level=int(config.builder_optimization_level),
        workspace_gib=options.workspace_gib,
        seconds=round(time.perf_counter() - started, 2),
    )


def is_built_as(fingerprint: Fingerprint, graph: Graph, options: BuildOptions) -> bool:
    """Tell whether an engine is what these options would build."""
    level = options.optimization_level
    return (
        fingerprint.shapes == shape_ranges(graph, options.ranges)
        and fingerprint.capabilities == targets(options)
        and fingerprint.refittable == options.refit
        and fingerprint.workspace_gib == options.workspace_gib
        and level in (None, fingerprint.optimization_level)
    )


def shape_ranges(graph: Graph, ranges: Mapping[str, tuple[int, int, int]]) -> dict[str, ShapeRange]:
    """Fill in the symbolic dimensions of a graph's inputs."""
    missing = {
        size
        for spec in graph.inputs
        for size in spec.shape
        if isinstance(size, str) and size not in ranges
    }
    if missing:
        raise ConfigError(
            f"the graph leaves {', '.join(sorted(missing))} open, and sizes are given for "
            f"{', '.join(ranges) or 'nothing'}: give them, or export with fixed sizes"
        )

    def shape(spec_shape: tuple[int | str, ...], which: int) -> tuple[int, ...]:
        return tuple(ranges[n][which] if isinstance(n, str) else n for n in spec_shape)

    return {
        spec.name: ShapeRange(shape(spec.shape, 0), shape(spec.shape, 1), shape(spec.shape, 2))
        for spec in graph.inputs
    }


def check_machine(backend: Backend, options: BuildOptions) -> None:
    """Refuse what needs a GPU where there is none, before minutes are spent.

    Raises:
        ConfigError: Naming what to leave out.
    """
    gpu, _ = _gpu()
    if backend.is_rtx:
        known = backend.module.ComputeCapability.__members__
        for capability in options.capabilities or ():
            if _rtx_name(capability) not in known:
                names = ", ".join(f"{k[2:-1]}.{k[-1]}" for k in known if k.startswith("SM"))
                raise ConfigError(
                    f"{backend} can't build for compute capability '{capability}'; it knows {names}"
                )
    elif options.capabilities is not None:
        raise ConfigError(
            f"compute capabilities {', '.join(options.capabilities)} were asked for, and {backend} "
            "builds for the GPU at hand alone: leave them out, or take --backend tensorrt_rtx"
        )
    elif gpu is None:
        raise ConfigError(
            f"{backend} builds on the GPU that the engine is for, and torch {torch.__version__} "
            "sees none: build there, or ahead of time with --backend tensorrt_rtx"
        )
    if gpu is None and options.refit:
        raise ConfigError(
            "a refittable engine can only be built with a GPU, and torch sees none: export with "
            "--adapters inputs, which swaps adapters in any engine"
        )


def check_quantised(graph: Graph, options: BuildOptions) -> None:
    """Refuse what a quantised graph can't become; its scales are in the graph, as its types are.

    Raises:
        ConfigError: Naming what to leave out.
    """
    if graph.quantization is None:
        return
    if options.refit:
        raise ConfigError(
            f"{graph.file} is quantised to {graph.quantization} by scales that fit its own "
            "weights alone, and can't be refitted with others: leave out --build-enable-refit, and "
            "quantise each checkpoint by itself"
        )
    wanted = targets(options)
    lacking = [each for each in wanted if tuple(map(int, each.split("."))) < _FP8_CAPABILITY]
    if graph.quantization == "fp8" and lacking:
        rest = [each for each in wanted if each not in lacking]
        instead = (
            f"leave them out with --compute-capabilities {' '.join(rest)}, or quantise"
            if rest
            else "quantise"
        )
        raise ConfigError(
            f"{graph.file} is quantised to fp8, which GPUs multiply from compute capability 8.9 "
            f"on, and the engine would be for {', '.join(lacking)} too: {instead} with --mode int8"
        )


def _parse(backend: Backend, network: Any, path: Path, log: MessageLog) -> None:
    trt = backend.module
    parser = trt.OnnxParser(network, log.logger)
    if parser.parse_from_file(os.fspath(path)) and network.num_outputs:
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    for error in errors:
        operator = error.node_operator()
        if operator and not parser.supports_operator(operator):
            raise ExportError(
                f"{backend} has no operator '{operator}', which node '{error.node_name()}' of "
                f"{path.name} needs: export with another opset, or with the operator written out"
            )
    said = "; ".join(f"node '{e.node_name()}' ({e.node_operator()}): {e.desc()}" for e in errors)
    raise ExportError(f"{backend} can't read {path.name}: {said or log.last()}: export it again")


def _rtx_name(capability: str) -> str:
    """Name a compute capability as RTX's enum does, such as "SM89"."""
    return f"SM{capability.replace('.', '')}"


def targets(options: BuildOptions) -> tuple[str, ...]:
    """Return the compute capabilities to build for."""
    if options.capabilities is not None:
        return options.capabilities
    if torch.cuda.is_available():
        return (".".join(map(str, torch.cuda.get_device_capability())),)
    return RTX_CAPABILITIES


def _set_targets(backend: Backend, config: Any, options: BuildOptions) -> None:
    if not backend.is_rtx:  # which knows the GPU at hand alone
        return
    known = backend.module.ComputeCapability
    if options.capabilities is None and torch.cuda.is_available():
        names = [known.CURRENT]  # which may be one that the enum has no name for
    else:
        names = [known.__members__[_rtx_name(each)] for each in targets(options)]
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(name, index)


@contextmanager
def _timing_cache(
    backend: Backend, config: Any, path: Path | None, say: Callable[[str], None]
) -> Iterator[None]:
    """Start from the measurements in a file, and write them back."""
    if path is None or backend.is_rtx:
        if path is not None:
            say(f"timing cache {path} is left out: {backend} measures nothing while it builds")
        yield
        return
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    # Damaged, or measured by another release or on another GPU: of no use, and no harm.
    if cache is None or not config.set_timing_cache(cache, False):
        say(f"timing cache {path} is of another GPU or release and is begun anew")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    yield
    cache = config.get_timing_cache()
    if cache is None:
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(memoryview(cache.serialize()))
        partial.replace(path)
    except OSError as error:  # what was built is worth more
        say(f"timing cache {path} can't be written ({error})")


@contextmanager
def _bar(backend: Backend, config: Any, show: bool) -> Iterator[None]:
    """Show how far TensorRT is, and in which of its phases."""
    if not show:
        yield
        return
    from tqdm import tqdm

    trt = backend.module
    bar = tqdm(desc="build", unit="phase")

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.outermost = ""

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.outermost = name
                bar.reset(steps)
            else:
                bar.set_postfix_str(name)

        def step_complete(self, name: str, step: int) -> bool:
            if name == self.outermost:
                bar.update(step + 1 - bar.n)
            return True

        def phase_finish(self, name: str) -> None:
            if name == self.outermost:
                bar.update((bar.total or bar.n) - bar.n)

    monitor = Monitor()
    config.progress_monitor = monitor
    try:
        yield
    finally:
        config.progress_monitor = None
        bar.close()


def _gpu() -> tuple[str | None, str | None]:
    """Name the GPU at hand and its driver."""
    if not torch.cuda.is_available():
        return None, None
    return torch.cuda.get_device_name(), driver_version()
