"""Engines are built of what was asked for, or not at all; this needs no TensorRT."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aid_robot.errors import ConfigError, EngineError
from aid_robot.export import to_trt
from aid_robot.export.to_trt import add_arguments, check_asked
from tests.export.small_graph import write_graph


def test_graphs_of_something_else_than_was_asked_for_are_not_built(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    manifest = write_graph(tmp_path)

    def asked(line: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return parser.parse_args(["--onnx-dir", str(tmp_path), *line.split()])

    check_asked(manifest, asked("--precision fp16 --adapters folded"))
    for line in ("--precision bf16", "--adapters inputs"):
        with pytest.raises(ConfigError, match="--force-onnx-export"):
            check_asked(manifest, asked(line))
    graph = replace(manifest.graph("denoiser"), weights={"float32": "ab" * 32})
    other = replace(manifest, graphs={"denoiser": graph})
    with pytest.raises(EngineError, match="exported from other weights"):
        check_asked(other, asked(f"--model {tiny_model_dir}"))


def test_an_export_that_is_forced_is_of_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(tmp_path)
    asked: dict[str, Any] = {}

    class ExportedError(Exception):
        pass

    def export(model: object, folder: Path, **options: Any) -> None:
        asked.update(options, model=model)
        raise ExportedError

    monkeypatch.setattr(to_trt, "export_onnx", export)
    monkeypatch.setattr(to_trt, "_load", lambda name, device: f"loaded {name}")
    monkeypatch.setattr(to_trt, "load_backend", lambda name: name)
    monkeypatch.setattr(to_trt, "check_machine", lambda backend, options: None)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    line = ["--onnx-dir", str(tmp_path), "--force-onnx-export", "--precision", "bf16"]
    with pytest.raises(ExportedError):
        to_trt.run(parser.parse_args(line))
    assert asked["model"] == "loaded small"
    assert (asked["name"], asked["precision"], asked["adapters"]) == ("small", "bf16", "folded")
