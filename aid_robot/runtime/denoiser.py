"""The denoiser protocol, and torch as its first runtime."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from aid_robot.errors import ConfigError
from aid_robot.model.aid import AIDModel, Network, denoise
from aid_robot.model.conditioning import Condition
from aid_robot.model.config import PredictionType


class Denoiser(Protocol):
    """Executes one denoising step for a batch of guidance branches x clips."""

    def denoise(self, latents: Tensor, sigma: float, condition: Condition) -> Tensor:
        """Predict x0 from noisy latents (rows, N, C, h, w) at one noise level."""


class NetworkDenoiser:
    """Precondition any network, in the dtype of the latents.

    An engine thus computes the UNet alone, and at every noise level the scales around it are those
    that torch uses.
    """

    def __init__(
        self, network: Network, dtype: torch.dtype, prediction_type: PredictionType
    ) -> None:
        self.network = network
        self._dtype = dtype
        self._prediction_type: PredictionType = prediction_type

    def denoise(self, latents: Tensor, sigma: float, condition: Condition) -> Tensor:
        """Predict x0 from noisy latents (rows, N, C, h, w) at one noise level."""
        return denoise(self.network, latents, sigma, condition, self._prediction_type, self._dtype)


class TorchDenoiser:
    """Run the model's own modules."""

    def __init__(self, model: AIDModel) -> None:
        self._model = model

    @property
    def network(self) -> Network:
        """The model's own UNet."""
        return self._model.unet

    def denoise(self, latents: Tensor, sigma: float, condition: Condition) -> Tensor:
        """Predict x0 from noisy latents (rows, N, C, h, w) at one noise level."""
        return self._model.denoise(latents, sigma, condition)


def make_torch(model: AIDModel, engines: Path | None, variant: str | None) -> Denoiser:
    """Make the runtime "torch"; it needs no engines and has no variant."""
    return TorchDenoiser(model)


def choose_device(device: str = "auto") -> torch.device:
    """Resolve "auto" to CUDA, Apple's MPS, or the CPU; check any other name."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device='{device}' is not a device: write auto, cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device='{device}' was asked for, but torch {torch.__version__} sees no CUDA device: "
            "use device='cpu', or install a torch for CUDA"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device='{device}' was asked for, but torch sees {torch.cuda.device_count()} CUDA "
            "devices, counted from 0"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device='mps' was asked for, but this machine has none: use device='cpu'")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device='{device}' is not supported: write auto, cpu, cuda or mps")
    return chosen


_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}


def choose_dtype(
    dtype: str | torch.dtype = "auto", device: torch.device | None = None
) -> torch.dtype:
    """Resolve "auto": bfloat16 where the hardware multiplies it natively, else float32."""
    if isinstance(dtype, torch.dtype):
        if dtype not in _DTYPES.values():
            raise ConfigError(f"dtype={dtype} can't run this model: use float32, float16, bfloat16")
        return dtype
    if dtype != "auto":
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype='{dtype}' is unknown; it is auto, {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    device = device or choose_device()
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    # Without AMX tiles a CPU only emulates bfloat16.
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return torch.bfloat16 if device.type == "cpu" and has_tiles() else torch.float32


class StageTimer:
    """Measure the stages of one call, in seconds; waits for the device at their ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to the stage."""
        started = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
