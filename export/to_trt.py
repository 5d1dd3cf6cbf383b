"""Build TensorRT engines from a model, or from graphs exported before, and gate them.

    python export/to_trt.py --onnx-dir engines --precision fp16 --batch-size 3 --max-batch-size 24
    python export/to_trt.py --onnx-dir engines --backend tensorrt_rtx --compute-capabilities 8.6 8.9

A folder without `export.json` gets the model's graph first. Engines are then compared with torch;
without a GPU, TensorRT-RTX builds them ahead of time and nothing runs them yet. The same code is
`aid-robot export trt`; flags are named as in NVIDIA's diffusion demo where it has them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from aid_robot.errors import ConfigError, EngineError
from aid_robot.export.graphs import ROLES, weights_of
from aid_robot.export.script import run_script
from aid_robot.export.to_onnx import export_onnx
from aid_robot.export.trt_builder import BuildOptions, build_engine, check_machine, is_built_as
from aid_robot.export.verify import add_gate_arguments, gate_from
from aid_robot.hub import BUNDLED
from aid_robot.model.aid import AIDModel
from aid_robot.model.checkpoint import load_model
from aid_robot.runtime.manifest import ADAPTERS, MANIFEST, PRECISIONS, Manifest
from aid_robot.runtime.trt import ROLE
from aid_robot.runtime.trt_fingerprint import Fingerprint, find_fingerprint, read_plan
from aid_robot.runtime.trt_library import Backend, load_backend

# Rows are branches of the guidance x candidates.
_BATCH, _MAX_BATCH = 3, 24
_PRECISION, _ADAPTERS = "fp16", "inputs"


def build_engines(
    onnx_dir: Path,
    engine_dir: Path,
    backend: Backend,
    options: BuildOptions,
    *,
    roles: tuple[str, ...] = (ROLE,),
    force: bool = False,
    progress: bool = True,
) -> dict[str, Fingerprint]:
    """Build the engines that are not there or not up to date, and list them in `export.json`.

    Args:
        onnx_dir: Folder of graphs and their `export.json`.
        engine_dir: Where engines go, with an `export.json` of their own; may be the same.
        backend: Who builds.
        options: How.
        roles: Which graphs.
        force: Build even what is up to date.
        progress: Show bars, and print a line an engine.

    Raises:
        EngineError: The graphs are damaged or missing.
        ExportError: TensorRT can't build one of them.
        ConfigError: The options can't be met on this machine.
    """
    check_machine(backend, options)
    manifest = Manifest.load(onnx_dir)
    engine_dir.mkdir(parents=True, exist_ok=True)
    listed = Manifest.load(engine_dir).engines if (engine_dir / MANIFEST).is_file() else {}
    manifest = replace(manifest, engines=listed)
    built = {}
    for role in roles:
        graph = manifest.graph(role)
        path = manifest.check_files(onnx_dir, role)
        found = None if force else _whole_engine(manifest, role, backend, engine_dir)
        state = "up to date"
        if found is None or not is_built_as(found, graph, options):
            found = build_engine(
                role, graph, path, engine_dir, backend, options, progress=progress, say=print
            )
            state = f"built in {found.seconds:.1f} s"
            of_backend = {**manifest.engines.get(backend.name, {}), role: found.to_dict()}
            manifest = replace(manifest, engines={**manifest.engines, backend.name: of_backend})
            manifest.save(engine_dir)
        built[role] = found
        if progress:
            print(f"{role:<14} {graph.arithmetic}  {_describe(found)}, {state}")
    return built


def _whole_engine(
    manifest: Manifest, role: str, backend: Backend, engine_dir: Path
) -> Fingerprint | None:
    """Return an engine that is there already, undamaged and of the same graph."""
    try:
        found = find_fingerprint(manifest, role, backend)
        read_plan(engine_dir, found)
    except EngineError:
        return None
    return found


def _describe(found: Fingerprint) -> str:
    low, best, high = found.rows
    rows = f"{best} rows" if low == high else f"{low} to {high} rows, best at {best}"
    target = found.gpu or f"compute capability {', '.join(found.capabilities)}"
    return f"{found.size / 1e6:9.1f} MB  {found.file}, {rows}, for {target}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    source = parser.add_argument_group("what to build from")
    source.add_argument(
        "--model",
        help="'bundled', a folder, or a hub id; graphs that are there must be its (default: what "
        "they were exported from, else 'bundled')",
    )
    source.add_argument(
        "--onnx-dir", type=Path, default=Path("onnx"), help="folder of the graphs (default: onnx)"
    )
    source.add_argument(
        "--force-onnx-export", action="store_true", help="export anew, even if the graph is there"
    )
    source.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        help=f"graphs that are there must have it (default: what they have, else {_PRECISION})",
    )
    source.add_argument(
        "--adapters", choices=ADAPTERS, help=f"likewise (default: what they have, else {_ADAPTERS})"
    )
    source.add_argument(
        "--graphs", nargs="+", choices=ROLES, default=[ROLE], help="which (default: the denoiser)"
    )
    build = parser.add_argument_group("how to build")
    build.add_argument(
        "--engine-dir", type=Path, help="where engines go (default: beside the graphs)"
    )
    build.add_argument(
        "--backend",
        choices=("auto", "tensorrt", "tensorrt_rtx"),
        default="auto",
        help="auto takes tensorrt where it is installed, else tensorrt_rtx",
    )
    build.add_argument("--force-engine-build", action="store_true", help="even if up to date")
    build.add_argument(
        "--batch-size", type=int, default=_BATCH, help="rows (branches x candidates) to tune for"
    )
    build.add_argument("--max-batch-size", type=int, default=_MAX_BATCH, help="most rows at once")
    build.add_argument(
        "--build-static-batch", action="store_true", help="build for --batch-size rows alone"
    )
    build.add_argument(
        "--build-dynamic-shape",
        nargs="+",
        default=[],
        metavar="NAME=MIN,BEST,MAX",
        help="sizes of other dimensions that a graph leaves open",
    )
    build.add_argument(
        "--build-enable-refit", action="store_true", help="let weights be swapped; needs a GPU"
    )
    build.add_argument("--optimization-level", type=int, metavar="0-5")
    build.add_argument("--workspace", type=float, metavar="GIB", help="memory of a single layer")
    build.add_argument("--timing-cache", type=Path, metavar="FILE", help="kernels timed before")
    build.add_argument(
        "--compute-capabilities",
        nargs="+",
        type=_capability,
        metavar="X.Y",
        help="of the GPUs to build for, by tensorrt_rtx (default: all that it can name)",
    )
    add_gate_arguments(parser)


def _capability(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d", text):
        raise argparse.ArgumentTypeError(f"'{text}'; expected X.Y, such as 8.9")
    return text


def choose_options(args: argparse.Namespace) -> BuildOptions:
    """Turn arguments into options of the build.

    Raises:
        ConfigError: They make no sense.
    """
    best = args.batch_size
    static = args.build_static_batch
    ranges = {"rows": (best, best, best) if static else (1, best, max(best, args.max_batch_size))}
    for text in args.build_dynamic_shape:
        name, _, sizes = text.partition("=")
        numbers = sizes.split(",")
        if not name or len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise ConfigError(f"--build-dynamic-shape {text}: expected such as height=16,32,64")
        low, middle, high = map(int, numbers)
        ranges[name] = (low, middle, high)
    return BuildOptions(
        ranges=ranges,
        optimization_level=args.optimization_level,
        workspace_gib=args.workspace,
        capabilities=tuple(args.compute_capabilities) if args.compute_capabilities else None,
        refit=args.build_enable_refit,
        timing_cache=args.timing_cache,
    )


def check_names(manifest: Manifest, roles: Sequence[str], options: BuildOptions) -> None:
    """Refuse sizes of a dimension that no graph leaves open."""
    inputs = [spec for role in roles for spec in manifest.graph(role).inputs]
    left_open = {size for spec in inputs for size in spec.shape if isinstance(size, str)}
    unknown = set(options.ranges) - left_open - {"rows"}
    if unknown:
        raise ConfigError(
            f"--build-dynamic-shape {', '.join(sorted(unknown))}: the graphs leave "
            f"{', '.join(sorted(left_open)) or 'nothing'} open; frames and size are those that "
            "they were exported with"
        )


def run(args: argparse.Namespace) -> int:
    """Export where that is needed, build and gate; returns 1 where the gate fails."""
    gate = gate_from(args)
    options = choose_options(args)
    backend = load_backend(args.backend)
    check_machine(backend, options)
    gpu = torch.cuda.is_available()
    print(f"{'backend':<14} {backend}, {torch.cuda.get_device_name() if gpu else 'without a GPU'}")
    engine_dir = args.engine_dir or args.onnx_dir
    there = (args.onnx_dir / MANIFEST).is_file()
    known = Manifest.load(args.onnx_dir) if there else None
    name = args.model or (known.model if known else "") or BUNDLED
    if known is None or args.force_onnx_export:
        export_onnx(
            _load(name, torch.device("cpu")),
            args.onnx_dir,
            name=name,
            precision=args.precision or (known.precision if known else _PRECISION),
            adapters=args.adapters or (known.adapters if known else _ADAPTERS),
            roles=args.graphs,
            progress=True,
        )
    else:
        check_asked(known, args)
    manifest = Manifest.load(args.onnx_dir)
    check_names(manifest, args.graphs, options)
    build_engines(
        args.onnx_dir,
        engine_dir,
        backend,
        options,
        roles=tuple(args.graphs),
        force=args.force_engine_build,
    )
    if gate is None:
        print("not verified, as asked")
        return 0
    if not gpu:
        why = "an engine runs on a GPU alone: there, call 'aid-robot export verify'"
        return gate.leave_out(engine_dir, Manifest.load(engine_dir), "trt", why)
    if ROLE not in args.graphs:
        why = f"of engines the gate runs that of the {ROLE}: verify the graphs by --runtime ort"
        return gate.leave_out(engine_dir, Manifest.load(engine_dir), "trt", why)
    return gate.run(engine_dir, _load(name, torch.device("cuda")), runtime="trt")


def check_asked(manifest: Manifest, args: argparse.Namespace) -> None:
    """Refuse to build from graphs of another model, precision or kind than was asked for."""
    anew = "leave it out, choose another --onnx-dir, or export anew by --force-onnx-export"
    for what in ("precision", "adapters"):
        asked, found = getattr(args, what), getattr(manifest, what)
        if asked is not None and asked != found:
            raise ConfigError(
                f"--{what} {asked}: the graphs in {args.onnx_dir} have {found}; {anew}"
            )
    if args.model is None:
        return
    for role in args.graphs:
        manifest.graph(role)
    model = _load(args.model, torch.device("cpu"))
    for role in args.graphs:
        manifest.check_weights(role, weights_of(role, model, manifest.adapters))


def _load(name: str, device: torch.device) -> AIDModel:
    """Load a model in float32, what engines are compared with."""
    return load_model(name, dtype=torch.float32).to(device, torch.float32)


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__, add_arguments, run))
