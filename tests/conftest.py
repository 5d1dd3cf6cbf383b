"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.exported import Exports

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests side by side share the cores; set before torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what needs exported graphs among the slow tests, and give those the time they need."""
    for item in items:
        if "onnx_exports" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)  # tracing takes minutes
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def bridge_dir() -> Path:
    """Recorded Bridge data; the test skips where there is none."""
    folder = os.environ.get("AID_ROBOT_BRIDGE")
    if not folder or not Path(folder).is_dir():
        pytest.skip("recorded Bridge data: set AID_ROBOT_BRIDGE to its folder")
    # Resolved, as ingest writes it down.
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole tiny model (N=4, K=1, 32x32, 5 fps), random weights."""
    from aid_robot.model.checkpoint import save_model
    from tests.tiny import tiny_model

    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_model(tiny_model(), folder)
    return folder


@pytest.fixture(scope="session")
def onnx_exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """The bundled model with its ONNX graphs; tests that ask for it are slow ones."""
    pytest.importorskip("onnxscript", reason="ONNX: pip install 'aid-robot[cpu]'")
    pytest.importorskip("onnxruntime", reason="ONNX Runtime: pip install 'aid-robot[cpu]'")
    from tests.exported import make_exports

    return make_exports(tmp_path_factory.mktemp("exports"))
