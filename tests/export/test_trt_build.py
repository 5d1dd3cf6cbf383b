"""Real TensorRT-RTX engines, built on the CPU and read back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from aid_robot.errors import ConfigError, EngineError, ExportError
from aid_robot.export.to_trt import (
    add_arguments,
    build_engines,
    check_names,
    choose_options,
)
from aid_robot.export.trt_builder import BuildOptions
from aid_robot.model.checkpoint import load_model
from aid_robot.model.unet import LayerContext
from aid_robot.runtime.manifest import Manifest
from aid_robot.runtime.trt import TensorRTNetwork
from aid_robot.runtime.trt_fingerprint import Fingerprint, find_fingerprint, read_plan
from aid_robot.runtime.trt_library import Backend, MessageLog, load_backend
from tests.export.small_graph import write_graph
from tests.exported import Exports, call_of, relative_error

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX: pip install 'aid-robot[trt-rtx]'")

ROWS = BuildOptions(ranges={"rows": (1, 3, 24)})
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.fixture(scope="module")
def rtx() -> Backend:
    return load_backend("tensorrt_rtx")


def build(folder: Path, rtx: Backend, options: BuildOptions = ROWS) -> Fingerprint:
    return build_engines(folder, folder / "engines", rtx, options, progress=False)["denoiser"]


def test_an_engine_is_listed_with_what_it_was_built_for(tmp_path: Path, rtx: Backend) -> None:
    graphs = write_graph(tmp_path)
    built = build(tmp_path, rtx)
    manifest = Manifest.load(tmp_path / "engines")
    found = find_fingerprint(manifest, "denoiser", rtx)
    assert found == built
    assert found.version == rtx.module.__version__
    assert found.rows == (1, 3, 24)
    assert found.shapes["x"].largest == (24, 8, 8)
    assert found.precision == "fp16"
    assert "8.9" in found.capabilities
    assert manifest.graphs == graphs.graphs
    assert len(read_plan(tmp_path / "engines", found)) == found.size


def test_a_plan_is_what_the_library_takes_for_one(tmp_path: Path, rtx: Backend) -> None:
    write_graph(tmp_path)
    plan = read_plan(tmp_path / "engines", build(tmp_path, rtx))
    runtime = rtx.module.Runtime(MessageLog(rtx).logger)
    malformed = int(rtx.module.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    _, problems = runtime.get_engine_validity(plan)
    assert not int(problems) & malformed
    _, problems = runtime.get_engine_validity(b"no plan" * 1000)
    assert int(problems) & malformed


def test_an_engine_is_built_again_only_when_it_must(tmp_path: Path, rtx: Backend) -> None:
    write_graph(tmp_path)
    first = build(tmp_path, rtx)
    plan = tmp_path / "engines" / first.file

    def is_rebuilt(options: BuildOptions = ROWS) -> bool:
        before = plan.stat().st_mtime_ns
        build(tmp_path, rtx, options)
        return plan.stat().st_mtime_ns != before

    assert not is_rebuilt()
    more = BuildOptions(ranges={"rows": (1, 3, 72)})
    assert is_rebuilt(more)
    plan.write_bytes(plan.read_bytes()[:-1])
    assert is_rebuilt(more)
    write_graph(tmp_path, operator="Sigmoid")
    assert is_rebuilt(more)
    one = BuildOptions(ranges={"rows": (1, 3, 72)}, capabilities=("8.0",))
    assert is_rebuilt(one)
    assert build(tmp_path, rtx, one).capabilities == ("8.0",)


def test_an_operator_that_is_missing_is_named(tmp_path: Path, rtx: Backend) -> None:
    write_graph(tmp_path, operator="StringNormalizer")
    with pytest.raises(ExportError, match="no operator 'StringNormalizer', which node 'last' of"):
        build(tmp_path, rtx)
    assert not list((tmp_path / "engines").iterdir())  # nothing half done


def test_a_damaged_graph_is_refused(tmp_path: Path, rtx: Backend) -> None:
    write_graph(tmp_path)
    path = tmp_path / "denoiser.onnx"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(EngineError, match=r"denoiser\.onnx does not have the SHA-256"):
        build(tmp_path, rtx)


def test_targets_that_rtx_does_not_know_are_refused(tmp_path: Path, rtx: Backend) -> None:
    write_graph(tmp_path)
    with pytest.raises(ConfigError, match=r"capability '9\.0'; it knows .*8\.9"):
        build(tmp_path, rtx, BuildOptions(ranges=ROWS.ranges, capabilities=("8.0", "9.0")))


@without_gpu
def test_what_needs_a_gpu_says_so(tmp_path: Path, rtx: Backend) -> None:
    write_graph(tmp_path)
    with pytest.raises(ConfigError, match=r"can only be built with a GPU.*--adapters inputs"):
        build(tmp_path, rtx, BuildOptions(ranges=ROWS.ranges, refit=True))
    plain = Backend("tensorrt", rtx.module, "11.4.0.106")
    with pytest.raises(ConfigError, match=r"torch .* sees none.*--backend tensorrt_rtx"):
        build(tmp_path, plain)
    with pytest.raises(ConfigError, match="builds for the GPU at hand alone"):
        build(tmp_path, plain, BuildOptions(ranges=ROWS.ranges, capabilities=("9.0",)))


def test_sizes_that_a_graph_leaves_open_must_be_given(tmp_path: Path, rtx: Backend) -> None:
    write_graph(tmp_path, columns="columns")
    with pytest.raises(ConfigError, match="leaves columns open, and sizes are given for rows"):
        build(tmp_path, rtx)
    sized = BuildOptions(ranges={"rows": (1, 1, 2), "columns": (4, 8, 16)})
    assert build(tmp_path, rtx, sized).shapes["x"].best == (1, 8, 8)


def test_a_timing_cache_is_left_out_aloud(
    tmp_path: Path, rtx: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    write_graph(tmp_path)
    build(tmp_path, rtx, BuildOptions(ranges=ROWS.ranges, timing_cache=tmp_path / "cache"))
    assert "timing cache" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("", (1, 3, 24)),
        ("--batch-size 9 --max-batch-size 72", (1, 9, 72)),
        ("--batch-size 6 --build-static-batch", (6, 6, 6)),
        ("--batch-size 30", (1, 30, 30)),
    ],
)
def test_the_command_line_chooses_the_rows(line: str, rows: tuple[int, int, int]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert choose_options(parser.parse_args(line.split())).ranges["rows"] == rows


@pytest.mark.parametrize(
    "line",
    [
        "--batch-size 0",
        "--optimization-level 6",
        "--workspace 0",
        "--build-dynamic-shape height=16,32",
        "--build-dynamic-shape height=64,32,16",
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(line: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(ConfigError):
        choose_options(parser.parse_args(line.split()))


def test_sizes_of_what_no_graph_leaves_open_are_refused(tmp_path: Path) -> None:
    manifest = write_graph(tmp_path)
    check_names(manifest, ["denoiser"], ROWS)
    sizes = BuildOptions(ranges={**ROWS.ranges, "height": (16, 32, 64)})
    with pytest.raises(ConfigError, match="height: the graphs leave rows open"):
        check_names(manifest, ["denoiser"], sizes)


@pytest.mark.parametrize("adapters", ["inputs", "folded"])
def test_the_denoiser_of_a_model_becomes_an_engine(
    onnx_exports: Exports, tmp_path: Path, rtx: Backend, adapters: str
) -> None:
    graphs: Path = getattr(onnx_exports, adapters)
    options = BuildOptions(ranges={"rows": (1, 3, 24)}, capabilities=("8.0",))
    built = build_engines(graphs, tmp_path, rtx, options, progress=False)["denoiser"]
    model = load_model(onnx_exports.checkpoint)
    frames, channels, *size = model.latent_shape
    assert built.shapes["sample"].best == (3, frames, 2 * channels, *size)
    handed = {name for name in built.shapes if ".adapters." in name}
    wanted = {n for n in model.unet.aid_parameter_names() if ".adapters." in n}
    assert handed == (wanted if adapters == "inputs" else set())
    assert built.size > 100_000
    assert find_fingerprint(Manifest.load(tmp_path), "denoiser", rtx) == built


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_engine_predicts_what_torch_does(onnx_exports: Exports, tmp_path: Path) -> None:
    build_engines(onnx_exports.inputs, tmp_path, load_backend(), ROWS, progress=False)
    cuda = torch.device("cuda")
    for checkpoint in (onnx_exports.checkpoint, onnx_exports.other_checkpoint):
        model = load_model(checkpoint).to(cuda, torch.float32)
        network = TensorRTNetwork(model, tmp_path, Manifest.load(tmp_path), load_backend())
        for rows in (1, 3, 24, 3):
            call = move(call_of(load_model(checkpoint), rows, seed=rows), cuda)
            with torch.no_grad():
                error = relative_error(network(**call), model.unet(**call))
            assert error < 1e-3


def move(call: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move the arguments of the UNet to a device."""
    context = [LayerContext(*(t.to(device) for t in layer)) for layer in call["context"]]
    rest = {name: call[name].to(device) for name in call if name != "context"}
    return {**rest, "context": context}
