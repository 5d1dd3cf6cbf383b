"""Engines are checked before they are loaded, and refused by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.errors import (
    ConfigError,
    EngineError,
    MissingDependencyError,
    RuntimeUnavailableError,
)
from aid_robot.foresight import VideoForesight
from aid_robot.runtime import make_denoiser
from aid_robot.runtime.denoiser import TorchDenoiser
from aid_robot.runtime.manifest import Manifest
from aid_robot.runtime.trt import choose_backend, graph_weights, swap_in_place
from aid_robot.runtime.trt_engine import check_inputs
from aid_robot.runtime.trt_fingerprint import (
    Device,
    Fingerprint,
    check_device,
    find_fingerprint,
    read_plan,
)
from aid_robot.runtime.trt_library import load_backend, version_tuple
from tests.runtime.trt_folder import BACKEND, FINGERPRINT, GRAPH, PLAN, manifest, write_folder
from tests.tiny import tiny_model


def test_a_folder_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    found = find_fingerprint(Manifest.load(write_folder(tmp_path)), "denoiser", BACKEND)
    assert found == FINGERPRINT
    assert found.rows == (1, 3, 24)
    assert bytes(read_plan(tmp_path, found)) == PLAN


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "11.3.0.99"}, "11.3.0.99 and tensorrt 11.4.0.106 is installed"),
        ({"graph": {"denoiser.onnx": "00" * 32}}, "another 'denoiser' graph"),
        ({"precision": "fp32"}, "another precision"),
        ({"shapes": {"other": FINGERPRINT.shapes["sample"]}}, "other inputs"),
    ],
)
def test_an_engine_of_something_else_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(EngineError, match=said):
        find_fingerprint(manifest(replace(FINGERPRINT, **change)), "denoiser", BACKEND)


def test_an_engine_of_another_backend_or_none_is_refused() -> None:
    other = manifest(replace(FINGERPRINT, backend="tensorrt_rtx"))
    with pytest.raises(EngineError, match=r"only engines for tensorrt_rtx.*--backend tensorrt"):
        find_fingerprint(other, "denoiser", BACKEND)
    with pytest.raises(EngineError, match="only engines for no backend"):
        find_fingerprint(manifest(None), "denoiser", BACKEND)


def test_an_engine_of_another_gpu_is_refused() -> None:
    check_device(FINGERPRINT, Device("NVIDIA H200", "9.0"))
    with pytest.raises(EngineError, match=r"9\.0 \(NVIDIA H100 PCIe\).*RTX 4090 of 8\.9"):
        check_device(FINGERPRINT, Device("NVIDIA RTX 4090", "8.9"))


@pytest.mark.parametrize("content", [PLAN[:-1], b"", PLAN[:-1] + b"x", None])
def test_a_damaged_plan_is_refused(tmp_path: Path, content: bytes | None) -> None:
    write_folder(tmp_path)
    path = tmp_path / FINGERPRINT.file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=r"denoiser\.tensorrt\.plan .*aid-robot export trt"):
        read_plan(tmp_path, FINGERPRINT)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(name=st.sampled_from(sorted(FINGERPRINT.to_dict())), value=_values)
def test_a_description_out_of_a_file_is_checked(name: str, value: object) -> None:
    values = {**json.loads(json.dumps(FINGERPRINT.to_dict())), name: value}
    try:
        found = Fingerprint.from_dict(values)
    except EngineError:
        return
    # What passes can be worked with.
    assert found.rows[0] >= 0
    assert Path(found.file).name == found.file
    assert found.size > 0


@pytest.mark.parametrize("name", ["../denoiser.plan", "/etc/passwd", "..", ""])
def test_no_engine_leads_out_of_its_folder(name: str) -> None:
    with pytest.raises(EngineError, match="no file name"):
        Fingerprint.from_dict({**FINGERPRINT.to_dict(), "file": name})


def test_inputs_are_checked_before_a_call() -> None:
    fits = {"sample": torch.zeros(3, 4, 8, dtype=torch.float16), "timestep": torch.zeros(3)}
    check_inputs(GRAPH, FINGERPRINT, fits)
    for changed, said in (
        ({"sample": torch.zeros(25, 4, 8, dtype=torch.float16)}, "rows .* within 1 to 24"),
        ({"sample": torch.zeros(3, 4, 9, dtype=torch.float16)}, r"\(3, 4, 9\).* from this model"),
        ({"sample": torch.zeros(3, 4, 8)}, "torch.float32, .* takes float16"),
        ({"extra": torch.zeros(1)}, "with extra that it doesn't know"),
    ):
        with pytest.raises(EngineError, match=said):
            check_inputs(GRAPH, FINGERPRINT, {**fits, **changed})
    with pytest.raises(EngineError, match="without timestep"):
        check_inputs(GRAPH, FINGERPRINT, {"sample": fits["sample"]})


def test_weights_are_swapped_all_or_none() -> None:
    held = {"up": torch.zeros(2, 3), "down": torch.zeros(3)}
    address = held["up"].data_ptr()
    with pytest.raises(EngineError, match=r"1 of those given .* such as down"):
        swap_in_place(held, {"up": torch.ones(2, 3), "down": torch.ones(4)})
    assert not held["up"].any()
    swap_in_place(held, {"up": torch.ones(2, 3), "down": torch.ones(3)})
    assert held["up"].all()
    assert held["up"].data_ptr() == address  # what an engine has bound


def test_weights_without_a_name_in_the_graph_are_refused() -> None:
    with pytest.raises(EngineError, match=r"no names for 1 of the weights, such as conv_in\.bias"):
        graph_weights(GRAPH, {"conv_in.bias": torch.zeros(1)})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_runtime_says_that_it_needs_a_gpu(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(RuntimeUnavailableError, match=r"run on an NVIDIA GPU.*'cpu'"):
        make_denoiser(tiny_model(), "trt", tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_another_runtime_takes_over_only_when_asked(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.warns(UserWarning, match="'trt' can't be used and 'torch' takes its place"):
        make_denoiser(tiny_model(), ("trt", "torch"), tmp_path)


@pytest.mark.parametrize("runtime", [("trt", "ort", "torch"), ("auto", "torch")])
def test_torch_takes_over_from_a_folder_that_is_not_there(
    tiny_model_dir: Path, tmp_path: Path, runtime: tuple[str, ...]
) -> None:
    with pytest.warns(UserWarning, match="takes its place"):
        foresight = VideoForesight.from_pretrained(
            tiny_model_dir, runtime=runtime, engines=tmp_path / "missing", device="cpu"
        )
    assert isinstance(foresight.denoiser, TorchDenoiser)


def test_a_folder_without_engines_names_the_remedy() -> None:
    with pytest.raises(EngineError, match="build them with 'aid-robot export trt'"):
        choose_backend(manifest(None))
    foreign = replace(manifest(), engines={"onnx2c": {}})
    with pytest.raises(EngineError, match="onnx2c"):
        choose_backend(foreign)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="auto, tensorrt or tensorrt_rtx"):
        load_backend("tensorflow")


@pytest.fixture
def unloaded_tensorrt() -> Iterator[None]:
    """Let `import tensorrt` look for files again, and forget what was found."""
    real = sys.modules.pop("tensorrt", None)
    yield
    sys.modules.pop("tensorrt", None)
    if real is not None:
        sys.modules["tensorrt"] = real


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("raise ImportError('libnvinfer.so.11: cannot open shared object file')", "libnvinfer"),
        ("", "its libraries do not load"),  # a placeholder package
        ("__version__ = '8.6.1'", r"8\.6\.1 is too old, expected 10\.16 or newer"),
    ],
)
@pytest.mark.usefixtures("unloaded_tensorrt")
def test_missing_or_broken_libraries_name_the_remedy(
    content: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingDependencyError, match=rf"{said}.*aid-robot\[trt\]"):
        load_backend("tensorrt")


def test_versions_are_compared_as_numbers() -> None:
    assert version_tuple("10.16.1.11") > version_tuple("10.9.0")
    assert version_tuple("11.4.0.dev1") == (11, 4, 0)
