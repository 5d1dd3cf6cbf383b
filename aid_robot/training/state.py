"""The files that a stopped run goes on from: written whole or not at all, the last two kept."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from aid_robot.errors import CheckpointError, TrainingError

KEPT = 2
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_state(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Any) -> Path:
    """Write a state, then remove all but the last two."""
    target = folder / f"state-{step:08d}.safetensors"
    partial = target.with_suffix(".tmp")
    try:
        with disk_errors(folder):
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()},
                partial,
                metadata={"facts": json.dumps(facts)},
            )
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    for old in state_files(folder)[:-KEPT]:
        old.unlink()
    return target


def read_state(folder: Path) -> tuple[dict[str, Tensor], Any, list[str]] | None:
    """Read the last state that is whole; None where there is none.

    Returns:
        Tensors, facts, and what was wrong with later ones.
    """
    problems: list[str] = []
    files = state_files(folder)
    for path in reversed(files):
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, facts, problems
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            problems.append(f"{path.name} is damaged ({error})")
    if files:
        raise CheckpointError(
            f"{folder} can't be gone on with: {'; '.join(problems)}: restore one of them, or "
            "delete them to begin the stage anew"
        )
    return None


def state_files(folder: Path) -> list[Path]:
    """List the states, the last one last."""
    return sorted(folder.glob("state-*.safetensors"))


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a disk that is full into an error that says what is safe."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        text = str(error)
        if number not in _FULL and not any(os.strerror(code) in text for code in _FULL):
            raise
        states = state_files(folder)
        safe = f"{states[-1].name} is whole" if states else "nothing was saved before"
        raise TrainingError(
            f"{folder} can't be written to ({text}); {safe}: make room and run the same command "
            "again, which goes on from there"
        ) from error


def whole(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU, gathered where it is shared out over processes."""
    return gathered(tensor).detach().to("cpu", copy=True)


def gathered(tensor: Tensor) -> Tensor:
    """Gather a tensor where it is shared out over processes, which all must ask for it."""
    found: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found


def copy_whole(target: Tensor, source: Tensor) -> None:
    """Copy a whole tensor into one that may be shared out over processes."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            mesh, placements = target.device_mesh, target.placements
            source = distribute_tensor(source.to(target.device), mesh, placements)
        target.copy_(source)
