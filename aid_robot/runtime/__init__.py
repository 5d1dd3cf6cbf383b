"""Who executes the denoiser: torch, ONNX Runtime or TensorRT, behind one protocol.

A runtime is asked for as "name" or "name:variant". It starts, or says why it can't; another takes
its place only where the caller lists several, as in `("trt", "ort", "torch")`.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from aid_robot.errors import (
    ConfigError,
    EngineError,
    MissingDependencyError,
    RuntimeUnavailableError,
)

if TYPE_CHECKING:
    import torch

    from aid_robot.model.aid import AIDModel
    from aid_robot.runtime.denoiser import Denoiser

# Each names a function `(model, engines, variant) -> Denoiser`, loaded with its first use.
_RUNTIMES: Mapping[str, str] = {
    "torch": "aid_robot.runtime.denoiser:make_torch",
    "torch:compile": "aid_robot.runtime.torch_compiled:make",
    "torch:cuda-graph": "aid_robot.runtime.torch_compiled:make",
    "ort": "aid_robot.runtime.ort:make",
    "ort:cpu": "aid_robot.runtime.ort:make",
    "ort:cuda": "aid_robot.runtime.ort:make",
    "ort:tensorrt": "aid_robot.runtime.ort:make",
    "trt": "aid_robot.runtime.trt:make",
}
RUNTIMES = ("auto", *_RUNTIMES)

_Folder = str | os.PathLike[str]


def make_denoiser(
    model: AIDModel, runtime: str | Sequence[str] = "auto", engines: _Folder | None = None
) -> Denoiser:
    """Choose who runs the UNet.

    Args:
        model: The model; an engine's weights are compared with its.
        runtime: One of `RUNTIMES`, or several, of which the first that starts is taken, with a
            warning that says why an earlier one wasn't. "auto" is torch, or with `engines` the
            runtime that they were made for.
        engines: Folder with an `export.json`.

    Raises:
        ConfigError: The runtime is unknown, or lacks its engines.
        RuntimeUnavailableError, MissingDependencyError: Its library, provider or device is missing.
        EngineError: The engines are damaged, or of another model, machine or version.
    """
    names = choose_runtimes(runtime, engines)
    for name, following in zip(names, [*names[1:], None], strict=True):
        module, _, function = _RUNTIMES[name].partition(":")
        make = getattr(import_module(module), function)
        try:
            denoiser: Denoiser = make(
                model,
                None if engines is None else Path(engines).expanduser(),
                name.partition(":")[2] or None,
            )
            return denoiser
        except (RuntimeUnavailableError, MissingDependencyError, EngineError) as error:
            if following is None:
                raise
            warnings.warn(
                f"runtime '{name}' can't be used and '{following}' takes its place: {error}",
                stacklevel=2,
            )
    raise AssertionError("one runtime at least is tried")


def choose_model_dtype(
    dtype: str | torch.dtype,
    device: torch.device,
    engines: _Folder | None,
    runtimes: Sequence[str] = (),
) -> torch.dtype:
    """Choose the dtype of what torch computes: with engines, "auto" is theirs.

    On a CPU it is float32 beside engines in float16, which a CPU computes slowly. Where the folder
    can't be read and torch is one of several runtimes, it is torch's own.
    """
    from aid_robot.runtime.denoiser import choose_dtype

    if dtype != "auto" or engines is None:
        return choose_dtype(dtype, device)
    from aid_robot.runtime.manifest import Manifest

    try:
        precision = Manifest.load(engines).precision
    except EngineError:
        if not any(name.startswith("torch") for name in runtimes):
            raise
        return choose_dtype("auto", device)
    return choose_dtype("fp32" if precision == "fp16" and device.type == "cpu" else precision)


def choose_runtimes(runtime: str | Sequence[str], engines: _Folder | None) -> list[str]:
    """Return the runtimes to try, in order; refuses unknown ones before a model is loaded."""
    names = [runtime] if isinstance(runtime, str) else list(runtime)
    for name in names:
        if name not in RUNTIMES:
            close = difflib.get_close_matches(name, RUNTIMES, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise ConfigError(
                f"runtime='{name}' is unknown: {hint}It is one of {', '.join(RUNTIMES)}"
            )
    alone = len(names) == 1
    names = [_automatic(engines, alone) if name == "auto" else name for name in names]
    if not names:
        raise ConfigError(f"runtime={runtime!r} names none; it is one of {', '.join(RUNTIMES)}")
    with_engines = [name for name in names if not name.startswith("torch")]
    if with_engines and engines is None:
        raise ConfigError(
            f"runtime='{with_engines[0]}' needs engines='FOLDER': make them by "
            "'aid-robot export onnx' or 'aid-robot export trt'"
        )
    if engines is not None and not with_engines:
        raise ConfigError(
            f"engines='{os.fspath(engines)}' was given, but runtime='{names[0]}' runs the model's "
            "own modules: choose runtime='ort' or 'trt', or leave the engines out"
        )
    return names


def _automatic(engines: _Folder | None, alone: bool) -> str:
    if engines is None:
        return "torch"
    from aid_robot.runtime.manifest import Manifest

    try:
        return "trt" if Manifest.load(engines).engines else "ort"
    except EngineError:
        if alone:
            raise
        return "ort"  # says the same when it is made, and another takes its place


__all__ = ["RUNTIMES", "choose_model_dtype", "choose_runtimes", "make_denoiser"]
