"""Calls of the UNet, kept while torch predicts: what graphs are compared on and calibrated by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aid_robot.model.aid import Network
from aid_robot.model.unet import LayerContext


@dataclass(frozen=True)
class Call:
    """One call of the UNet, and torch's answer."""

    sample: Tensor
    timestep: Tensor
    context: Sequence[LayerContext]
    added_time_ids: Tensor
    output: Tensor

    @torch.inference_mode()
    def run(self, network: Network, count: int) -> tuple[Tensor, Tensor]:
        """Let a network answer `count` rows, the call's over and over; return both answers."""
        rows = [row % len(self.sample) for row in range(count)]
        answer = network(
            self.sample[rows],
            self.timestep[rows],
            [layer.rows(rows) for layer in self.context],
            self.added_time_ids[rows],
        )
        return answer.float(), self.output[rows].float()


def mixed(calls: Sequence[Call], count: int) -> Call:
    """Put rows of several calls together, in turn: a network that mixes rows up is seen by it."""
    longest = max(len(call.sample) for call in calls)
    known = [(call, row) for row in range(longest) for call in calls if row < len(call.sample)]
    picked = [known[number % len(known)] for number in range(count)]
    context = [
        LayerContext(*(torch.cat(tensors) for tensors in zip(*layers, strict=True)))
        for layers in zip(
            *([layer.rows([row]) for layer in call.context] for call, row in picked), strict=True
        )
    ]

    def joined(tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat([tensor[None] for tensor in tensors])

    return Call(
        joined(call.sample[row] for call, row in picked),
        joined(call.timestep[row] for call, row in picked),
        context,
        joined(call.added_time_ids[row] for call, row in picked),
        joined(call.output[row] for call, row in picked),
    )


class Recorder:
    """A network that keeps its calls, or of them those that `keep` wants by their c_noise."""

    def __init__(self, network: Network, keep: Callable[[float], bool] = lambda _: True) -> None:
        self._network = network
        self._keep = keep
        self.calls: list[Call] = []

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        context: Sequence[LayerContext],
        added_time_ids: Tensor,
    ) -> Tensor:
        output = self._network(sample, timestep, context, added_time_ids)
        if self._keep(float(timestep[0])):
            self.calls.append(Call(sample, timestep, context, added_time_ids, output))
        return output
