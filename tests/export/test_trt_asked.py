"""Engines are built of what was asked for, or not at all; this needs no TensorRT."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from aid_robot.errors import ConfigError, EngineError
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
