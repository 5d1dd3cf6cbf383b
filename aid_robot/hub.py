"""Where models come from: bundled with the package, a folder, or a hub id."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from aid_robot.errors import CheckpointError, WeightsNotFoundError

BUNDLED = "bundled"
_ASSETS = Path(__file__).parent / "assets"
CHECKSUMS = "checksums.json"

# A Stable Video Diffusion repository also carries its weights as single files of 9 GB: leave them.
_ALLOW = ["*.json", "*/*.json", "*/*.safetensors", "*/*.txt", "*.txt", "model.safetensors"]
_IGNORE = ["*.fp16.safetensors", "*.bin", "*.ckpt", "*.msgpack", "*.onnx*", "*.h5"]


def bundled_model() -> Path:
    """Return the folder of the model that comes with the package."""
    return _ASSETS / "model"


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Find the folder of a model, downloading it where a hub id asks for that.

    Args:
        name_or_path: "bundled", a folder, or a hub id ("owner/name", optionally "@revision").
            `HF_HUB_OFFLINE` and the other variables of huggingface_hub are respected.

    Raises:
        WeightsNotFoundError: It names every place that was tried.
    """
    name = os.fspath(name_or_path)
    if name == BUNDLED:
        if not bundled_model().is_dir():
            raise WeightsNotFoundError(
                f"the bundled model is missing from this installation ({bundled_model()}): install "
                "aid-robot again, or name another model"
            )
        return bundled_model()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    tried = [f"the folder {folder.absolute()}"]
    owner_and_name, _, revision = name.partition("@")
    if owner_and_name.count("/") == 1 and not name.startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download

        try:
            return Path(
                snapshot_download(
                    owner_and_name,
                    revision=revision or None,
                    allow_patterns=_ALLOW,
                    ignore_patterns=_IGNORE,
                )
            )
        except Exception as error:  # offline, no such repository, no permission, a broken line
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            tried.append(f"the hub id '{name}' ({type(error).__name__}: {reason})")
    raise WeightsNotFoundError(
        f"no model at '{name}'; tried {'; '.join(tried)}. Give a folder that holds one, a hub id "
        f"that is cached or can be downloaded, or '{BUNDLED}' for the model of this package"
    )


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every weight file beside them."""
    sums = {
        str(path.relative_to(folder)): _sha256(path)
        for path in sorted(folder.rglob("*.safetensors"))
    }
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=2) + "\n")


def verify_checksums(folder: Path) -> None:
    """Compare weight files with their recorded SHA-256, where a folder has such a record."""
    record = folder / CHECKSUMS
    if not record.exists():
        return
    try:
        sums = dict(json.loads(record.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{record} is damaged ({error}): restore it") from error
    for name, expected in sums.items():
        path = folder / name
        if not path.exists():
            raise WeightsNotFoundError(
                f"{path} is missing, though {record} lists it: restore the file or install again"
            )
        if _sha256(path) != expected:
            raise CheckpointError(
                f"{path} does not have the checksum that {record} records: the file was damaged "
                "or replaced; restore it or install again"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
