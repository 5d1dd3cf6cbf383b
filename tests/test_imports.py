"""Imports run one way, and the package stays light until something is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "aid_robot"

# Each layer may import from itself and from those before it.
LAYERS = [
    {"errors", "extras", "interrupt"},
    {"observation", "observation_layouts", "observation_pixels", "clip", "clip_drawing", "hub",
     "predictor"},
    {"model", "data"},
    {"options", "runtime", "training"},
    {"foresight", "loop", "baselines", "evaluation", "planning"},
    {"envs", "export"},
    {"cli", "commands"},
]  # fmt: skip
LAYER_OF = {name: depth for depth, names in enumerate(LAYERS) for name in names}
# `clip` writes videos, and does so by data.video, which knows nothing of models.
EXCEPTIONS = {("clip", "data.video")}
SOURCES = [
    path
    for folder in (PACKAGE, ROOT / "envs", ROOT / "export")
    for path in sorted(folder.rglob("*.py"))
    if "__pycache__" not in path.parts
    and not path.is_relative_to(PACKAGE / "envs")
    and not path.is_relative_to(PACKAGE / "export")
]


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports, without the package's own name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "aid_robot":
            names |= {alias.name for alias in node.names if alias.name in LAYER_OF}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aid_robot."):
            names.add((node.module or "").removeprefix("aid_robot."))
        elif isinstance(node, ast.Import):
            names |= {
                alias.name.removeprefix("aid_robot.")
                for alias in node.names
                if alias.name.startswith("aid_robot.")
            }
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    base = PACKAGE if path.is_relative_to(PACKAGE) else ROOT
    own = path.relative_to(base).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    assert own in LAYER_OF, f"give '{own}' a place among the layers"
    for module in imported(path):
        if (own, module) in EXCEPTIONS:
            continue
        target = module.split(".")[0]
        assert LAYER_OF[target] <= LAYER_OF[own], f"{path} must not import aid_robot.{module}"
        if own == "model":
            assert target != "data", "models know nothing of files of recordings"


def test_no_module_hides_a_package() -> None:
    """A script's own folder comes first on the path."""
    taken = {"onnx", "tensorrt", "types", "torch", "gymnasium", "onnxruntime", "mujoco"}
    names = {p.stem for folder in ("envs", "export") for p in (ROOT / folder).glob("*.py")}
    assert not names & taken


@pytest.mark.parametrize("module", ["aid_robot", "aid_robot.cli", "aid_robot.observation"])
def test_light_modules_load_no_torch(module: str) -> None:
    code = f"import {module}, sys; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout.strip() == "[]"


def test_public_names_load_lazily() -> None:
    code = (
        "import aid_robot; print(aid_robot.VideoForesight.__name__, aid_robot.Foresight.__name__)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout.split() == ["VideoForesight", "Foresight"]
