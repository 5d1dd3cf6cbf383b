"""`export.json` comes from outside: what is wrong with it is said, and nothing leads elsewhere."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aid_robot.errors import EngineError
from aid_robot.runtime.manifest import (
    MANIFEST,
    Graph,
    Manifest,
    TensorSpec,
    Weight,
    digest_weights,
    digests_by_dtype,
)

GRAPH = Graph(
    file="denoiser.onnx",
    data="denoiser.data",
    sha256={"denoiser.onnx": "0" * 64, "denoiser.data": "1" * 64},
    precision="fp16",
    inputs=(TensorSpec("sample", "float16", ("rows", 4, 8), "latents", "1"),),
    outputs=(TensorSpec("output", "float16", ("rows", 4, 4), "v"),),
    weights={"float32": "2" * 64},
    names={"conv.weight": Weight("conv.weight")},
)
KNOWN = Manifest(
    model="bundled",
    precision="fp16",
    adapters="inputs",
    opset=20,
    config={"fps": 5.0},
    versions={"torch": "2.13"},
    graphs={"denoiser": GRAPH},
    engines={"tensorrt_rtx": {"plan": "denoiser.plan"}},
)


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    KNOWN.save(tmp_path)
    assert Manifest.load(tmp_path) == KNOWN
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


def plain() -> dict[str, Any]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        KNOWN.save(Path(folder))
        values: dict[str, Any] = json.loads((Path(folder) / MANIFEST).read_text())
    return values


VALUES = plain()


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All paths into nested values."""
    inner = (
        values.items()
        if isinstance(values, dict)
        else enumerate(values)
        if isinstance(values, list)
        else ()
    )
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


@given(
    place=st.sampled_from(places(VALUES)[1:]),
    value=st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())
    | st.dictionaries(st.text(), st.integers()) | st.just("../denoiser.onnx") | st.just(...),
)  # fmt: skip
def test_any_change_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], value: Any
) -> None:
    values = copy.deepcopy(VALUES)
    parent = values
    for key in place[:-1]:
        parent = parent[key]
    if value is ...:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    folder = tmp_path_factory.mktemp("changed")
    (folder / MANIFEST).write_text(json.dumps(values))
    try:
        manifest = Manifest.load(folder)
    except EngineError:
        return
    for graph in manifest.graphs.values():
        assert Path(graph.file).name == graph.file


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2}', "[" * 100_000])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(EngineError, match="damaged"):
        Manifest.load(tmp_path)


def test_a_path_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    values = copy.deepcopy(VALUES)
    values["graphs"]["denoiser"]["file"] = "../other/denoiser.onnx"
    (tmp_path / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(EngineError, match="no file name"):
        Manifest.load(tmp_path)


def test_weights_are_known_in_every_dtype_they_round_to() -> None:
    state = {"b": torch.randn(5), "a": torch.randn(3, 2)}
    known = digests_by_dtype(state)
    assert set(known) == {"float32", "float16", "bfloat16"}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        rounded = {name: tensor.to(dtype) for name, tensor in state.items()}
        assert digest_weights(rounded) == known[str(dtype).removeprefix("torch.")]
    assert set(digests_by_dtype({"a": torch.zeros(2).half()})) == {"float16"}
    moved = {"a": state["b"], "b": state["a"]}
    assert digest_weights(moved) != known["float32"]
    assert digest_weights({**state, "a": state["a"].reshape(2, 3)}) != known["float32"]


def test_a_shape_fits_where_its_fixed_sizes_do() -> None:
    spec = TensorSpec("x", "float32", ("rows", 4), "")
    assert spec.accepts((9, 4))
    assert not spec.accepts((9, 5))
    assert not spec.accepts((4,))
