"""The random numbers of a step: a function of the seed and the step alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Noise:
    """Draw for the clips of a step that this process computes, at this part of the step.

    What a clip gets depends on its place in the step, not on how many processes or parts share the
    step: everything is drawn for all clips, and the rows of these are taken. Nothing is kept from
    step to step, so that a run that goes on draws what it would have drawn.

    Args:
        seed: Of the run.
        step: Its number.
        batch_size: Clips of the step, of all processes and parts.
        rows: Which of them these are.
        device: Where the numbers are made; each kind of device makes its own.
    """

    def __init__(
        self,
        seed: int,
        step: int,
        batch_size: int,
        rows: slice = slice(None),
        device: torch.device | str = "cpu",
    ) -> None:
        mixed = np.random.SeedSequence([seed, step]).generate_state(2, np.uint32)
        self._own = torch.Generator(device).manual_seed(int(mixed[0]))
        self._shared = torch.Generator().manual_seed(int(mixed[1]))
        self._batch_size, self._rows, self._device = batch_size, rows, device

    def normal(self, *shape: int) -> Tensor:
        """Draw N(0, 1) for each clip, (B, *shape)."""
        drawn = torch.randn(self._batch_size, *shape, generator=self._own, device=self._device)
        return drawn[self._rows]

    def uniform(self, *shape: int) -> Tensor:
        """Draw from [0, 1) for each clip, (B, *shape)."""
        drawn = torch.rand(self._batch_size, *shape, generator=self._own, device=self._device)
        return drawn[self._rows]

    def spread(self) -> Tensor:
        """Draw from (0, 1) for each clip, (B,), evenly spread over the step's clips."""
        places = torch.arange(self._batch_size, device=self._device)
        return ((places + self.shared()) / self._batch_size)[self._rows].clamp(1e-6, 1 - 1e-6)

    def shared(self) -> float:
        """Draw one number from [0, 1) for the whole step."""
        return torch.rand((), generator=self._shared).item()
