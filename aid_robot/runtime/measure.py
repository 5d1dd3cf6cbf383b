"""Time calls the same way everywhere: warmed up, synchronised, with the machine named beside.

A figure without warm-up is none: it can't be made here.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from aid_robot.errors import ConfigError

_CLEAR_PEAK = "5"  # what the kernel takes to forget the peak of a process's memory
_PACKAGES = ("torch", "diffusers", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs after a warm-up."""

    seconds: tuple[float, ...]
    # Of the first call, which compiles, allocates and tunes.
    first: float
    warmup: int
    # Most memory while it ran, of the GPU where there is one, else of the process.
    peak_bytes: int | None
    # By stage, the seconds of every run.
    stages: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.warmup < 1 or not self.seconds:
            raise ConfigError(
                f"{self.warmup} warm-up runs and {len(self.seconds)} timed ones make no figure: "
                "take at least 1 of each"
            )

    @property
    def p50(self) -> float:
        """Median."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """The value that 95 % of the runs stay within (the slowest of fewer than 20)."""
        return percentile(self.seconds, 0.95)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "p50": self.p50,
            "p95": self.p95,
            "first": self.first,
            "warmup": self.warmup,
            "seconds": list(self.seconds),
            "peak_bytes": self.peak_bytes,
            "stages": {name: statistics.median(times) for name, times in self.stages.items()},
        }


def percentile(values: tuple[float, ...], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def measure(
    call: Callable[[], Mapping[str, float] | None],
    device: torch.device,
    *,
    warmup: int,
    runs: int,
) -> Timing:
    """Time a call.

    Args:
        call: May return the seconds of its stages.
        device: Is waited for before and after every run.
        warmup: Runs before the timed ones.
        runs: Timed runs.
    """
    check_runs(warmup, runs)
    reset_peak(device)
    seconds: list[float] = []
    stages: dict[str, list[float]] = {}
    for turn in range(warmup + runs):
        synchronize(device)
        started = time.perf_counter()
        parts = call()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
        if turn >= warmup:
            for name, part in (parts or {}).items():
                stages.setdefault(name, []).append(part)
    return Timing(
        seconds=tuple(seconds[warmup:]),
        first=seconds[0],
        warmup=warmup,
        peak_bytes=peak_bytes(device),
        stages={name: tuple(times) for name, times in stages.items()},
    )


def check_runs(warmup: int, runs: int) -> None:
    """Refuse figures without a warm-up."""
    if warmup < 1:
        raise ConfigError(
            f"--warmup {warmup}: the first call compiles, allocates and tunes, and a figure "
            "without warm-up is none; take at least 1"
        )
    if runs < 1:
        raise ConfigError(f"--runs {runs} must be at least 1")


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def reset_peak(device: torch.device) -> None:
    """Forget the highest use of memory so far."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        try:
            Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
        except OSError:  # then the peak is of the whole process's life
            return


def peak_bytes(device: torch.device) -> int | None:
    """Return the highest use of memory since `reset_peak`; None where it can't be known.

    On a GPU that is torch's own peak and what others, such as TensorRT, hold there now.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        others = total - free - torch.cuda.memory_reserved(device)
        return torch.cuda.max_memory_allocated(device) + max(0, others)
    status = Path("/proc/self/status")
    if device.type != "cpu" or not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Say what the figures were taken on: hardware, driver, clocks, versions, load."""
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "load": current_load(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: v for name in _PACKAGES if (v := _version(name)) is not None},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = properties.name
        found["gpu memory GiB"] = round(properties.total_memory / 2**30, 1)
        found["compute capability"] = f"{properties.major}.{properties.minor}"
        found["cuda"] = torch.version.cuda
        found.update(_ask_driver(device))
    return found


def current_load() -> list[float] | None:
    """Return the machine's load over 1, 5 and 15 minutes, where it tells."""
    return [round(each, 2) for each in os.getloadavg()] if hasattr(os, "getloadavg") else None


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver."""
    driver = _ask_driver(torch.device("cuda")).get("driver")
    return None if driver is None else str(driver)


def _ask_driver(device: torch.device) -> dict[str, str]:
    """Ask the driver for its version, and the GPU's clocks, temperature and other users."""
    fields = {
        "driver": "driver_version",
        "clock": "clocks.sm",
        "clock limit": "clocks.max.sm",
        "memory clock": "clocks.mem",
        "power limit": "power.limit",
        "temperature": "temperature.gpu",
        "gpu load": "utilization.gpu",
    }
    command = [
        "nvidia-smi",
        f"--query-gpu={','.join(fields.values())}",
        "--format=csv,noheader",
        # By its own number: an index would ignore CUDA_VISIBLE_DEVICES.
        f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}",
    ]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in said.stdout.strip().split(",")]
    return dict(zip(fields, values, strict=False))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
