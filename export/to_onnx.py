"""Export a model to ONNX, and prove that the graphs compute what torch does.

    python export/to_onnx.py --onnx-dir engines --precision fp16

writes one graph for each part of the model and `export.json`, which says what each takes and gives.
The same code is `aid-robot export onnx`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aid_robot import __version__
from aid_robot.errors import ConfigError, EngineError, ExportError
from aid_robot.export.graphs import ROLES, check_roles, make_source, roles_of, weights_of
from aid_robot.export.onnx_graph import MAX_OPSET, check_opset, save_graph, trace_graph
from aid_robot.export.script import run_script
from aid_robot.export.verify import Gate, add_gate_arguments, gate_from
from aid_robot.extras import require
from aid_robot.hub import BUNDLED
from aid_robot.model.aid import AIDModel
from aid_robot.runtime.manifest import ADAPTERS, MANIFEST, PRECISIONS, Manifest

_VERSIONS = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnx-ir", "onnxruntime")


def export_onnx(
    model: AIDModel,
    folder: str | os.PathLike[str],
    *,
    name: str = "",
    precision: str = "fp32",
    adapters: str = "folded",
    roles: Sequence[str] | None = None,
    rows: int | None = None,
    opset: int = MAX_OPSET,
    external_data: bool | None = None,
    progress: bool = False,
) -> Manifest:
    """Write the graphs of a model and their manifest.

    Args:
        model: Loaded in float32, so that the manifest knows the checkpoint in every dtype.
        folder: Where to; made if missing.
        name: The model's name or path, as `VideoForesight.from_pretrained` takes it.
        precision: What the graphs compute in: "fp32", "fp16" or "bf16".
        adapters: "folded" puts all weights into the denoiser; "inputs" hands it what AID trained
            with each call, so that one engine serves every domain.
        roles: Which graphs; None takes all that the model has. Others that the folder holds of the
            same model, exported in the same way, are kept.
        rows: Fixes the batch (candidates x branches); None leaves it dynamic.
        opset: Of the graphs, 18 to 20.
        external_data: Weights in a file apart; None does so above 2 GB.
        progress: Show a bar.

    Raises:
        ExportError: A part can't be exported, or the disk is full.
    """
    if precision not in PRECISIONS or adapters not in ADAPTERS:
        raise ConfigError(
            f"precision='{precision}', adapters='{adapters}': the first is one of "
            f"{', '.join(PRECISIONS)}, the second of {', '.join(ADAPTERS)}"
        )
    if rows is not None and rows < 1:
        raise ConfigError(f"rows={rows} must be at least 1, or left out for a dynamic batch")
    roles = roles_of(model) if roles is None else roles
    check_roles(roles, model)
    check_opset(opset)
    require("onnxscript", "onnx")
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{folder} can't be made ({error}): choose another folder") from error
    manifest = Manifest(
        model=name,
        precision=precision,
        adapters=adapters,
        opset=opset,
        config=model.config.to_dict(),
        versions=_versions(),
        graphs={},
    )
    manifest = _keeping(manifest, folder, model, roles)
    with tqdm(roles, desc="export", unit="graph", disable=not progress) as bar:
        for role in bar:
            bar.set_postfix_str(f"{role}: tracing")
            source = make_source(role, model, precision=precision, adapters=adapters, rows=rows)
            traced = trace_graph(source, role, opset=opset)
            path = folder / f"{role}.onnx"
            bar.set_postfix_str(f"{role}: writing")
            saved = save_graph(traced, source, path, external_data=external_data)
            # Should the next one fail, the folder holds what is listed.
            manifest = replace(manifest, graphs={**manifest.graphs, role: saved})
            manifest.save(folder)
            del source, traced
    return manifest


def _keeping(manifest: Manifest, folder: Path, model: AIDModel, roles: Sequence[str]) -> Manifest:
    """Keep what a folder has of the same model, exported in the same way, and its engines.

    Raises ConfigError where only some parts are exported and the others would be forgotten.
    """
    if not (folder / MANIFEST).is_file():
        return manifest
    try:
        old = Manifest.load(folder)
    except EngineError:  # damaged: written anew
        return manifest
    others = set(old.graphs) - set(roles)
    differing = [
        f"{name} {getattr(old, name)} -> {getattr(manifest, name)}"
        for name in ("precision", "adapters", "opset")
        if getattr(old, name) != getattr(manifest, name)
    ]
    if others and differing:
        raise ConfigError(
            f"{folder} holds {', '.join(sorted(others))} exported in another way "
            f"({', '.join(differing)}): export all parts, in the same way, or into another folder"
        )
    if differing or _shape_of(old) != _shape_of(manifest):
        return manifest
    graphs = {}
    for role in sorted(others):
        try:
            old.check_files(folder, role)
            old.check_weights(role, weights_of(role, model, old.adapters))
        except (EngineError, ConfigError):
            continue
        graphs[role] = old.graphs[role]
    return replace(manifest, graphs=graphs, engines=old.engines)


def _shape_of(manifest: Manifest) -> dict[str, Any]:
    """Return what graphs depend on in a config: all but how it is sampled."""
    config: dict[str, Any] = json.loads(json.dumps(dict(manifest.config)))
    config.pop("sampling", None)
    return config


def _versions() -> dict[str, str]:
    found = {"aid-robot": __version__}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--model", default=BUNDLED, help="'bundled', a folder, or a hub id")
    parser.add_argument(
        "--onnx-dir", type=Path, default=Path("onnx"), help="where to write (default: onnx)"
    )
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32")
    parser.add_argument(
        "--adapters",
        choices=ADAPTERS,
        default="folded",
        help="folded: all weights are in the graph; inputs: what AID trained is handed in with "
        "each call, and one engine serves every domain",
    )
    parser.add_argument("--graphs", nargs="+", choices=ROLES, help="parts to export (default: all)")
    parser.add_argument(
        "--rows", type=int, help="fix the batch, candidates x branches (default: dynamic)"
    )
    parser.add_argument("--onnx-opset", type=int, default=MAX_OPSET, help="18 to 20")
    parser.add_argument(
        "--external-data",
        action="store_true",
        default=None,
        help="weights in a file apart (default: above 2 GB)",
    )
    add_gate_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Export, verify and print; returns 1 where the gate fails."""
    import torch

    from aid_robot.model.checkpoint import load_model

    gate: Gate | None = gate_from(args)
    model = load_model(args.model, dtype=torch.float32)
    for module in model.modules.values():
        module.eval().requires_grad_(False)
    manifest = export_onnx(
        model,
        args.onnx_dir,
        name=str(args.model),
        precision=args.precision,
        adapters=args.adapters,
        roles=args.graphs,
        rows=args.rows,
        opset=args.onnx_opset,
        external_data=args.external_data,
        progress=True,
    )
    for role, graph in manifest.graphs.items():
        size = sum((args.onnx_dir / name).stat().st_size for name in graph.sha256) / 1e6
        print(f"{role:<14} {graph.precision}  {size:9.1f} MB  {args.onnx_dir / graph.file}")
    if gate is None:
        print("not verified, as asked")
        return 0
    return gate.run(args.onnx_dir, model, runtime="ort:cpu")


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__, add_arguments, run))
