"""Tensors at fixed addresses, which captured CUDA graphs and engines read from and write to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class InputBuffers:
    """Inputs at fixed addresses, refilled from the tensors of each call.

    Keys and values stay the same over the steps of a request, and are copied once: a tensor that
    lies where the last call's lay is the same one, for that one is kept alive and nobody writes to
    conditions in place. Whatever may be written to is named in `changing` and always copied.
    """

    def __init__(self, like: Mapping[str, Tensor], changing: Collection[str]) -> None:
        with torch.inference_mode(False):  # to be written to in either mode
            self.tensors = {
                name: torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
                for name, tensor in like.items()
            }
        self._changing = frozenset(changing)
        self._held: dict[str, Tensor] = {}

    def fill(self, given: Mapping[str, Tensor]) -> int:
        """Copy a call's inputs and return how many were not there yet."""
        copied = 0
        for name, buffer in self.tensors.items():
            tensor = given[name]
            held = self._held.get(name)
            if name not in self._changing and held is not None and _is_same(held, tensor):
                continue
            buffer.copy_(tensor)
            copied += 1
            if name not in self._changing:
                self._held[name] = tensor
        return copied


def _is_same(a: Tensor, b: Tensor) -> bool:
    return (
        a.data_ptr() == b.data_ptr()
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.dtype == b.dtype
    )


class Recent(Generic[T]):
    """What was made for the last few shapes; making more forgets the one unused longest."""

    def __init__(self, size: int = 4) -> None:
        self._size = size
        self._items: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what belongs to a key; make it where it isn't there."""
        if key not in self._items:
            while len(self._items) >= self._size:  # first, so that its memory is free
                self._items.popitem(last=False)
            self._items[key] = make()
        self._items.move_to_end(key)
        return self._items[key]
