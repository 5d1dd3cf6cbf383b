"""Which TensorRT is installed: TensorRT 10.16 or newer, or TensorRT-RTX; one API serves both.

Used is only what TensorRT 10.16, TensorRT 11 and TensorRT-RTX have in common, and what RTX adds
where the backend says so; `tests/runtime/test_trt_contract.py` compares it with the real bindings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

from aid_robot.errors import ConfigError, MissingDependencyError

BackendName = Literal["tensorrt", "tensorrt_rtx"]
_EXTRAS: dict[str, str] = {"tensorrt": "trt", "tensorrt_rtx": "trt-rtx"}
# The first release with the API that is used here.
_OLDEST = {"tensorrt": (10, 16), "tensorrt_rtx": (1, 3)}


@dataclass(frozen=True)
class Backend:
    """An importable TensorRT."""

    name: BackendName
    module: Any  # `tensorrt` or `tensorrt_rtx`
    version: str

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX, whose engines need no GPU to be built."""
        return self.name == "tensorrt_rtx"

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def load_backend(name: str = "auto") -> Backend:
    """Import TensorRT; "auto" takes `tensorrt` where it works, else `tensorrt_rtx`.

    Raises:
        MissingDependencyError: It is not installed, or its libraries are missing or too old.
        ConfigError: There is no such backend.
    """
    known = get_args(BackendName)
    if name not in ("auto", *known):
        raise ConfigError(f"backend='{name}' is unknown; it is auto, {' or '.join(known)}")
    problems = []
    for candidate in known if name == "auto" else (name,):
        try:
            return _import(candidate)
        except MissingDependencyError as error:
            problems.append(str(error))
    raise MissingDependencyError("; ".join(problems))


def _import(name: str) -> Backend:
    install = f"pip install 'aid-robot[{_EXTRAS[name]}]'"
    try:
        module = import_module(name)
        version = str(module.__version__)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"'{name}' is not installed and engines need it: {install}"
        ) from error
    # Placeholder packages import as empty ones; bindings without libraries fail to link.
    except (ImportError, OSError, AttributeError) as error:
        raise MissingDependencyError(
            f"'{name}' is installed, but its libraries do not load ({error}): install it whole, "
            f"from NVIDIA's package index where the ordinary one has placeholders: {install}"
        ) from error
    oldest = _OLDEST[name]
    if version_tuple(version)[:2] < oldest:
        raise MissingDependencyError(
            f"{name} {version} is too old, expected {'.'.join(map(str, oldest))} or newer: "
            f"{install} --upgrade"
        )
    backend: BackendName = "tensorrt_rtx" if name == "tensorrt_rtx" else "tensorrt"
    return Backend(backend, module, version)


def version_tuple(version: str) -> tuple[int, ...]:
    """Turn "11.4.0.106" into numbers; what follows a part that is no number is left out."""
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


class MessageLog:
    """Keeps TensorRT's warnings and errors, which name the cause that its calls do not return."""

    def __init__(self, backend: Backend, show: Callable[[str], None] | None = None) -> None:
        trt = backend.module
        self.problems: list[str] = []
        severity = trt.ILogger.Severity
        shown = (severity.INTERNAL_ERROR, severity.ERROR, severity.WARNING)

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self, keep: list[str]) -> None:
                trt.ILogger.__init__(self)
                self.keep = keep

            def log(self, level: Any, message: str) -> None:
                if level not in shown:
                    return
                if level != severity.WARNING:
                    self.keep.append(message.strip())
                if show is not None:
                    show(f"{level.name.lower()}: {message.strip()}")

        self.logger = Logger(self.problems)

    def last(self, otherwise: str = "no reason given") -> str:
        """Return the last errors in one line, and forget them."""
        said = "; ".join(self.problems[-3:]) or otherwise
        self.problems.clear()
        return said
