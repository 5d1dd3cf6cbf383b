"""The bundled model exported in both forms from one trace, and what its tests compare with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch import Tensor

from aid_robot.export.graphs import make_source
from aid_robot.export.onnx_graph import save_graph
from aid_robot.export.to_onnx import export_onnx
from aid_robot.hub import BUNDLED, bundled_model
from aid_robot.model.aid import AIDModel
from aid_robot.model.checkpoint import load_model, save_model

# The others take as long to trace as all tests together; `-m slow` has them.
ROLES = ("denoiser", "context")


@dataclass(frozen=True)
class Exports:
    """Folders of a checkpoint and its graphs."""

    checkpoint: Path
    # The same frozen base, and other weights where AID trains.
    other_checkpoint: Path
    folded: Path
    inputs: Path


def load(checkpoint: Path) -> AIDModel:
    """Load a model in float32 on the CPU, for inference."""
    return load_model(checkpoint).to(torch.device("cpu"), torch.float32)


def make_exports(folder: Path) -> Exports:
    """Export the bundled model, folded and with adapters as inputs, and save a changed one."""
    exports = Exports(bundled_model(), *(folder / name for name in ("other", "folded", "inputs")))
    model = load(exports.checkpoint)
    manifest = export_onnx(model, exports.folded, name=BUNDLED, roles=ROLES)
    # The same traced graph serves the other form: tracing is what takes long.
    source = make_source("denoiser", model, adapters="inputs")
    exports.inputs.mkdir()
    traced = onnx_ir.load(exports.folded / "denoiser.onnx")
    graph = save_graph(traced, source, exports.inputs / "denoiser.onnx")
    replace(manifest, adapters="inputs", graphs={"denoiser": graph}).save(exports.inputs)
    change_trained_part(model)
    save_model(model, exports.other_checkpoint)
    return exports


@torch.no_grad()
def change_trained_part(model: AIDModel, by: float = 0.3) -> None:
    """Change what AID trains in the UNet; zeros too."""
    generator = torch.Generator().manual_seed(2)
    trained = set(model.unet.aid_parameter_names())
    for name, parameter in model.unet.named_parameters():
        if name in trained:
            scale = parameter.std() if parameter.numel() > 1 and parameter.any() else 0.1
            parameter.add_(by * scale * torch.randn(parameter.shape, generator=generator))


def call_of(model: AIDModel, rows: int, seed: int = 0) -> dict[str, Any]:
    """Return arguments of the UNet for some rows, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    source = make_source("dqformer", model)
    with torch.inference_mode():
        context = model.unet.project_context(*source.module(*source.example(seed)))
    frames, channels, *size = model.latent_shape
    return {
        "sample": torch.randn((rows, frames, 2 * channels, *size), generator=generator),
        "timestep": torch.randn((rows,), generator=generator),
        "context": [layer.rows([row % 2 for row in range(rows)]) for layer in context],
        "added_time_ids": torch.tensor([[4.0, 127.0, 0.0]]).expand(rows, -1),
    }


def relative_error(found: Tensor, truth: Tensor) -> float:
    """Return the relative L2 distance."""
    return float((found.float() - truth.float()).norm() / truth.float().norm())
