"""`aid-robot info`: what is installed, what it runs on, and which model it would use."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aid_robot import __version__
from aid_robot.errors import AIDRobotError

HELP = "show versions, devices, the model and the settings of this machine"

# Module -> the packages that may bring it.
_PACKAGES = {
    "torch": ("torch",),
    "diffusers": ("diffusers",),
    "transformers": ("transformers",),
    "gymnasium": ("gymnasium",),
    "cv2": ("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    "av": ("av",),
    "numpy": ("numpy",),
}
_OPTIONAL = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
    "mujoco": ("mujoco",),
    "zarr": ("zarr",),
}
_SHOWN_VARIABLES = ("AID_ROBOT_CACHE", "AID_ROBOT_WEIGHTS", "HF_HOME", "HF_HUB_OFFLINE")
# Only whether they are set is anyone's business.
_SECRET_VARIABLES = ("AID_ROBOT_ENDPOINT_KEY",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--model", default="bundled", help="'bundled', or a folder")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what a bug report needs."""
    found = {
        "aid_robot": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(names) for name, names in _PACKAGES.items()},
        "optional": {name: _version(names) for name, names in _OPTIONAL.items()},
        "devices": _devices(),
        "model": _model(args.model),
        "caches": _caches(),
        "environment": _environment(),
    }
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _print_table(found)
    return 0


def _version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _devices() -> dict[str, Any]:
    import torch

    from aid_robot.runtime.denoiser import choose_device, choose_dtype

    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return {
        "auto": str(device),
        "auto dtype": str(dtype).removeprefix("torch."),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cpu bfloat16 tiles": bool(has_tiles()),
        "cpu threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": [
            f"{torch.cuda.get_device_name(index)}, "
            f"{torch.cuda.get_device_properties(index).total_memory / 2**30:.0f} GiB"
            for index in range(torch.cuda.device_count())
        ],
    }


def _model(name: str) -> dict[str, Any]:
    from aid_robot.hub import BUNDLED, CHECKSUMS, resolve, verify_checksums
    from aid_robot.model.checkpoint import load_config

    # Looking at a model must not download it.
    if name != BUNDLED and not Path(name).is_dir():
        return {"name": name, "problem": f"there is no folder '{name}'"}
    try:
        folder = resolve(name)
        config = load_config(folder)
    except AIDRobotError as error:
        return {"name": name, "problem": str(error)}
    model: dict[str, Any] = {
        "name": name,
        "path": str(folder),
        "megabytes": round(sum(f.stat().st_size for f in _files(folder)) / 1e6, 1),
        "parameters": {},
        "config": config.to_dict(),
    }
    try:
        model["parameters"] = _parameters(folder)
        verify_checksums(folder)
    except AIDRobotError as error:
        model["problem"] = str(error)
    recorded = (folder / CHECKSUMS).exists()
    whole = "ok" if recorded else f"none recorded: there is no {CHECKSUMS}"
    model["checksums"] = "not ok" if "problem" in model else whole
    return model


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _parameters(folder: Path) -> dict[str, int]:
    """Count each part's parameters by the headers of its files, without loading them."""
    from safetensors import SafetensorError, safe_open

    from aid_robot.errors import CheckpointError

    counts: dict[str, int] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged ({error}): restore it") from error
        part = path.parent.relative_to(folder).as_posix()
        counts[part] = counts.get(part, 0) + sum(map(math.prod, shapes))
    return counts


def _caches() -> dict[str, str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from aid_robot.model.states.cache import default_cache_dir

    return {"states": str(default_cache_dir()), "hub": str(HF_HUB_CACHE)}


def _environment() -> dict[str, str | None]:
    shown = {name: os.environ.get(name) for name in _SHOWN_VARIABLES}
    secret = {name: "set" if os.environ.get(name) else None for name in _SECRET_VARIABLES}
    return {**shown, **secret}


def _print_table(found: Mapping[str, Any]) -> None:
    for section, content in found.items():
        if not isinstance(content, Mapping):
            print(f"{section:<28} {content}")
            continue
        print(f"\n{section}")
        for name, value in content.items():
            if isinstance(value, Mapping):
                print(f"  {name}")
                for inner, number in value.items():
                    print(f"    {inner:<24} {_show(number)}")
            else:
                print(f"  {name:<26} {_show(value)}")


def _show(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={inner}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)
