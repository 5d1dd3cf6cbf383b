"""Round an exported denoiser to int8 or fp8 for TensorRT, by NVIDIA ModelOpt and recorded calls.

    aid-robot export quantize --onnx-dir onnx --calibration onnx/calibration.npz --mode fp8 \\
        --output-dir onnx-fp8

ModelOpt pins older packages of ONNX, and so has an environment of its own: pip install -e .
'nvidia-modelopt[onnx]'. What it writes is a graph with its scales inside (QuantizeLinear and
DequantizeLinear), which `aid-robot export trt` builds and `aid-robot export verify` judges.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tokenize import TokenError
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aid_robot.errors import ConfigError, ExportError, MissingDependencyError
from aid_robot.export.script import run_script
from aid_robot.runtime.manifest import MANIFEST, QUANTIZATIONS, Graph, Manifest

Arrays: TypeAlias = dict[str, NDArray[Any]]

ROLE = "denoiser"
# The products that tensor cores take; what is between them stays in the graph's precision.
_OPERATORS = ("Conv", "Gemm", "MatMul")
# First and last convolution, shortcuts and embeddings of the noise level and the place in a clip:
# small, and the most sensitive. NVIDIA's diffusion examples leave them out too.
_LEFT_OUT = re.compile(
    r"(^|\.)(conv_in|conv_out|conv_shortcut|time_embedding|add_embedding|time_emb_proj"
    r"|time_pos_embed)\."
)
_VOLUME_AXES = 5  # of the weights of a 3D convolution
_MAX_HEADER = 10_000  # numpy's own limit
# What zipfile and numpy raise for damaged files; numpy lets a header be tokenised as Python.
_UNREADABLE = (
    zipfile.BadZipFile,
    ValueError,
    EOFError,
    KeyError,
    OSError,
    SyntaxError,
    TokenError,
    NotImplementedError,
)


def quantize(
    onnx_dir: Path,
    calibration: Path,
    mode: str,
    output_dir: Path,
    *,
    device: str = "cpu",
) -> Manifest:
    """Quantise the denoiser of a folder into a folder of its own.

    Args:
        onnx_dir: Folder of the graph, exported in fp32 or fp16 with its weights inside.
        calibration: By `aid-robot export calibrate`.
        mode: "int8" or "fp8".
        output_dir: Where to; made if missing. Another than `onnx_dir`.
        device: Where ONNX Runtime runs the graph on the rows, "cpu" or "cuda:0".

    Returns:
        The manifest of the new folder, which has the denoiser alone.

    Raises:
        MissingDependencyError: ModelOpt isn't installed.
        ConfigError: The graph can't be quantised, or the rows are of another.
        EngineError: The graph is missing or damaged.
        ExportError: ModelOpt fails, or the disk is full.
    """
    if mode not in QUANTIZATIONS:
        raise ConfigError(f"mode='{mode}' is unknown; it is one of {', '.join(QUANTIZATIONS)}")
    manifest = Manifest.load(onnx_dir)
    graph = quantisable(manifest)
    if output_dir.resolve() == onnx_dir.resolve():
        raise ConfigError(
            f"--output-dir {output_dir} is the folder of the graph itself: name another, such as "
            f"{onnx_dir}-{mode}"
        )
    rows = read_calibration(calibration, graph)
    path = manifest.check_files(onnx_dir, ROLE)
    optimizer = _require_modelopt()
    import onnx

    output_dir.mkdir(parents=True, exist_ok=True)
    # A folder whose quantisation broke off has no manifest and is refused.
    (output_dir / MANIFEST).unlink(missing_ok=True)
    name = f"{ROLE}.{mode}.onnx"
    with tempfile.TemporaryDirectory(dir=output_dir) as work:
        model = onnx.load(path)
        origins = fold_transposed(model)
        source = Path(work) / "source.onnx"
        _save(model, source, apart=graph.data is not None)
        left_out = choose_left_out(model, origins, mode)
        del model
        made = Path(work) / name
        try:
            optimizer.quantize(
                str(source),
                quantize_mode=mode,
                calibration_data=rows,
                # Of fp8 the only method; of int8 the one that keeps a diffusion model's outliers.
                calibration_method="max",
                calibration_eps=[device],
                op_types_to_quantize=list(_OPERATORS),
                nodes_to_exclude=left_out,
                use_external_data_format=graph.data is not None,
                output_path=str(made),
                # "fp32" is to change no type: the graph is in its own precision already.
                high_precision_dtype="fp32",
                log_level="WARNING",
            )
        except OSError as error:
            raise ExportError(f"{made} can't be written ({error}): free some disk space") from error
        except Exception as error:  # of ModelOpt, onnx and onnxruntime, each with its own
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ExportError(
                f"ModelOpt can't quantise {path} to {mode}: {reason}; see that the graph passes "
                "'aid-robot export verify', and that ModelOpt is of the release in docs/export.md"
            ) from error
        _check_result(onnx, made, graph, mode)
        files = [file for file in sorted(Path(work).iterdir()) if file.name.startswith(name)]
        sha256 = {}
        for file in files:
            with file.open("rb") as content:
                sha256[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
            file.replace(output_dir / file.name)
    quantised = replace(
        graph,
        file=name,
        data=next((other for other in sha256 if other != name), None),
        sha256=sha256,
        names={},
        quantization=mode,
    )
    versions = {**manifest.versions, **_versions()}
    made_manifest = replace(manifest, graphs={ROLE: quantised}, engines={}, versions=versions)
    made_manifest.save(output_dir)
    return made_manifest


def quantisable(manifest: Manifest) -> Graph:
    """Return the denoiser of a folder.

    Raises:
        EngineError: It has none.
        ConfigError: It can't be quantised.
    """
    graph = manifest.graph(ROLE)
    if graph.quantization is not None:
        raise ConfigError(
            f"{graph.file} is quantised already ({graph.quantization}): start from the graph that "
            "it was made from"
        )
    if graph.precision == "bf16":
        raise ConfigError(
            f"{graph.file} is in bf16, whose ranges no CPU's ONNX Runtime can measure: export it "
            "with --precision fp16 or fp32"
        )
    if manifest.adapters == "inputs":
        raise ConfigError(
            f"{graph.file} is handed what AID trained with each call, and scales fit the weights "
            "of one checkpoint alone: export it with --adapters folded"
        )
    return graph


def read_calibration(path: Path, graph: Graph) -> Arrays:
    """Read the rows of a calibration, after they were found to be of a graph.

    Returns:
        By input, (rows, ...); of a graph with a fixed batch a multiple of it.

    Raises:
        ConfigError: The file is missing, damaged, or of another graph.
    """
    again = "record it by 'aid-robot export calibrate' for this graph"
    if not path.is_file():
        raise ConfigError(f"there is no {path}; expected rows of the UNet's calls: {again}")
    rows: Arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path.stat().st_size)
        with np.load(path, allow_pickle=False) as loaded:
            expected, found = {spec.name for spec in graph.inputs}, set(loaded.files)
            if expected != found:
                differ = ", ".join(sorted(expected ^ found)[:3])
                raise ConfigError(
                    f"{path} has {len(found)} inputs and {graph.file} takes {len(expected)}; they "
                    f"differ in {differ}: {again}"
                )
            rows = {spec.name: loaded[spec.name] for spec in graph.inputs}
    except _UNREADABLE as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is damaged ({error}): {again}") from error
    count = min(len(values) if values.ndim else 0 for values in rows.values())
    for spec in graph.inputs:
        values = rows[spec.name]
        fits = values.shape[:1] == (count,) and values.shape[1:] == tuple(spec.shape[1:])
        if not fits or values.dtype.name != spec.dtype or count == 0:
            raise ConfigError(
                f"{path} has '{spec.name}' as {values.shape} {values.dtype}, and {graph.file} "
                f"takes rows of {tuple(spec.shape[1:])} {spec.dtype}: {again}"
            )
        if not np.isfinite(values).all():
            raise ConfigError(f"{path} has '{spec.name}' with values that aren't finite: {again}")
    batch = graph.inputs[0].shape[0]
    if isinstance(batch, int):
        if count < batch:
            raise ConfigError(
                f"{path} has {count} rows and {graph.file} takes {batch} at once: record more by "
                "'aid-robot export calibrate --clips'"
            )
        rows = {name: values[: count - count % batch] for name, values in rows.items()}
    return rows


def fold_transposed(model: Any) -> dict[str, str]:
    """Turn weights that the graph transposes before their use, so that their scales are by channel.

    Returns:
        Of each weight that was turned, which one of the exported graph it is.
    """
    from onnx import numpy_helper

    graph = model.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    origins = {}
    for node in list(graph.node):
        if node.op_type != "Transpose" or node.input[0] not in held:
            continue
        name, turned = node.input[0], node.output[0]
        axes = next((list(each.ints) for each in node.attribute if each.name == "perm"), None)
        values = numpy_helper.to_array(held[name]).transpose(axes)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), turned))
        graph.node.remove(node)
        origins[turned] = name
        uses[name] -= 1
        if not uses[name]:
            graph.initializer.remove(held[name])
    return origins


def choose_left_out(model: Any, origins: Mapping[str, str], mode: str) -> list[str]:
    """Name the nodes that stay in the graph's precision.

    Args:
        model: The graph.
        origins: Of weights that were turned, their names in torch; see `fold_transposed`.
        mode: "fp8" leaves the 3D convolutions out too, for which TensorRT has no kernels in it.
    """
    axes = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    left_out = []
    for node in model.graph.node:
        if node.op_type not in _OPERATORS:
            continue
        sensitive = any(_LEFT_OUT.search(origins.get(name, name)) for name in node.input)
        volume = node.op_type == "Conv" and axes.get(node.input[1]) == _VOLUME_AXES
        if sensitive or (volume and mode == "fp8"):
            left_out.append(node.name)
    return left_out


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse arrays that are larger by their header than in the file."""
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise ValueError(f"'{member.filename}' is compressed or longer than the file")
        with archive.open(member) as file:
            form = np.lib.format
            reader = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
            read = reader.get(form.read_magic(file))
            if read is None:
                raise ValueError(f"'{member.filename}' has a header of an unknown version")
            shape, _, dtype = read(file, max_header_size=_MAX_HEADER)
            if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
                raise ValueError(f"'{member.filename}' has not the size that its header names")


def _require_modelopt() -> ModuleType:
    try:
        return import_module("modelopt.onnx.quantization")
    except ImportError as error:
        raise MissingDependencyError(
            f"NVIDIA ModelOpt can't be imported ({error}) and quantising needs it: make an "
            "environment of its own, for it pins older packages of ONNX, and there "
            "pip install -e . 'nvidia-modelopt[onnx]'"
        ) from error


def _save(model: Any, path: Path, *, apart: bool) -> None:
    import onnx

    try:
        onnx.save(model, path, save_as_external_data=apart, location=f"{path.name}_data")
    except OSError as error:
        raise ExportError(f"{path} can't be written ({error}): free some disk space") from error


def _check_result(onnx: Any, path: Path, graph: Graph, mode: str) -> None:
    """See that the graph takes and gives what it did, and that something was quantised."""
    made = onnx.load(path, load_external_data=False).graph
    for found, specs in ((made.input, graph.inputs), (made.output, graph.outputs)):
        if [value.name for value in found] != [spec.name for spec in specs]:
            raise ExportError(
                f"ModelOpt changed the interface of {graph.file}: this release of it can't be "
                "used; take the one in docs/export.md"
            )
    if not any(node.op_type == "QuantizeLinear" for node in made.node):
        raise ExportError(
            f"ModelOpt found nothing in {graph.file} to round to {mode}: its layers may be too "
            "small for that"
        )


def _versions() -> dict[str, str]:
    found = {}
    for package in ("nvidia-modelopt", "onnx", "onnxruntime", "onnxruntime-gpu"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


# -- the command -----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--onnx-dir", type=Path, default=Path("onnx"), help="folder of the graphs (default: onnx)"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="by 'export calibrate' (default: calibration.npz beside the graphs)",
    )
    parser.add_argument(
        "--mode", choices=QUANTIZATIONS, required=True, help="fp8 needs a GPU of 8.9 or later"
    )
    parser.add_argument(
        "--output-dir", type=Path, help="where to write (default: onnx-int8 or onnx-fp8)"
    )
    parser.add_argument(
        "--device", default="cpu", help="where ranges are measured: cpu, cuda:0 (default: cpu)"
    )


def run(args: argparse.Namespace) -> int:
    """Quantise and print."""
    folder: Path = args.onnx_dir
    target = args.output_dir or folder.with_name(f"{folder.name}-{args.mode}")
    rows = args.calibration or folder / "calibration.npz"
    graph = quantize(folder, rows, args.mode, target, device=args.device).graph(ROLE)
    size = sum((target / name).stat().st_size for name in graph.sha256) / 1e6
    print(f"{ROLE:<14} {args.mode} in {graph.precision}  {size:9.1f} MB  {target / graph.file}")
    print("not verified: call 'aid-robot export verify' where torch and onnxruntime are at home")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__, add_arguments, run))
