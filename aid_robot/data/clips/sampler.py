"""In which order clips are read, and where a run that stopped goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext, ForkContext
from typing import Any

import cv2
import torch.distributed as dist
from torch.utils.data import DataLoader, Sampler

from aid_robot.data.clips.clip import Clip, ClipBatch, collate
from aid_robot.data.clips.dataset import ClipDataset
from aid_robot.errors import CheckpointError, ConfigError


class ClipSampler(Sampler[int]):
    """Count through a dataset's endless stream of clips, which comes shuffled and weighted.

    Each `iter()` goes on from `position` to the end of the epoch, or forever if `infinite`. Of
    several processes each takes every `world_size`-th clip, from its rank on; the few at an
    epoch's end that don't go round are left out (never the same ones), so that all processes
    take as many steps.

    Args:
        dataset: What the numbers are for.
        infinite: Go on from one epoch into the next.
        rank: Of this process; by default as torch.distributed says, 0 where it isn't used.
        world_size: Number of processes.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        *,
        infinite: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        running = dist.is_available() and dist.is_initialized()
        self.rank = rank if rank is not None else dist.get_rank() if running else 0
        self.world_size = (
            world_size if world_size is not None else dist.get_world_size() if running else 1
        )
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank={self.rank} must be in [0, world_size={self.world_size})")
        if not infinite and len(dataset) < self.world_size:
            raise ConfigError(
                f"an epoch of {len(dataset)} clips has none for some of {self.world_size} "
                "processes: set infinite=True, or a longer epoch"
            )
        self.dataset, self.infinite = dataset, infinite
        # The number of the stream's next clip, of all processes together.
        self.position = 0

    def __iter__(self) -> Iterator[int]:
        left = None if self.infinite else len(self)
        while left is None or left > 0:
            number = self.position + self.rank
            self.position = self.after(1, self.position)
            left = None if left is None else left - 1
            yield number

    def __len__(self) -> int:
        """Count this process's clips from the position to the end of the epoch."""
        if self.infinite:
            raise TypeError("an infinite sampler has no length")
        return (len(self.dataset) - self.position % len(self.dataset)) // self.world_size

    def after(self, clips: int, start: int) -> int:
        """Give the position after each process has taken so many clips from `start` on."""
        position = start + clips * self.world_size
        left = -position % len(self.dataset)
        # What is too little for all processes is left out.
        return position if self.infinite or left >= self.world_size else position + left

    def state_dict(self) -> dict[str, Any]:
        """Say where the stream is, in numbers and text that JSON takes; the same on every rank."""
        return {"position": self.position, "data": self.dataset.fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at a saved place, with as many processes as there are now."""
        if state["data"] != self.dataset.fingerprint:
            raise CheckpointError(
                f"the run was saved on other clips ({state['data']}) than these "
                f"({self.dataset.fingerprint}): go on with the same episodes, settings and seed, "
                "or begin a new run"
            )
        self.position = self.after(0, int(state["position"]))


class ClipLoader(DataLoader[Clip]):
    """A DataLoader whose state is that of the batches handed out, not of those read ahead.

    Save `state_dict()` after a step, and the run goes on with the very next clip. A loop that is
    left early is gone on with by the next one, too.

    Args:
        dataset: What to read.
        batch_size: Clips of a batch, on this process.
        infinite: Go on from one epoch into the next; else the last batch may be smaller.
        rank: Of this process; by default as torch.distributed says.
        world_size: Number of processes.
        options: Further ones of DataLoader: num_workers, pin_memory, prefetch_factor, ... Workers
            are started anew ("forkserver" or "spawn"), since OpenCV's threads, which resize
            frames, don't survive a fork: a forked worker may wait for them forever.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        *,
        infinite: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> None:
        # DataLoader has an attribute `sampler` of another type.
        self.clips = ClipSampler(dataset, infinite=infinite, rank=rank, world_size=world_size)
        start = options.get("multiprocessing_context") or _new_process()
        if start == "fork" or isinstance(start, ForkContext):
            raise ConfigError(
                "multiprocessing_context is 'fork', in which a worker may hang; expected "
                "'forkserver' or 'spawn'"
            )
        if options.get("num_workers"):
            options["multiprocessing_context"] = start
        options = {"collate_fn": collate, "worker_init_fn": one_thread, **options}
        super().__init__(dataset, batch_size, sampler=self.clips, **options)
        self._batch, self._position = batch_size, self.clips.position

    def __iter__(self) -> Iterator[ClipBatch]:  # type: ignore[override]
        # Workers read ahead, and the sampler with them: where the run is, is counted here.
        start, sampler = self._position, self.clips
        sampler.position = start
        left = None if sampler.infinite else len(sampler)
        used = 0
        for batch in super().__iter__():
            used += self._batch
            used = used if left is None else min(used, left)
            self._position = sampler.after(used, start)
            yield batch
        self._position = sampler.position

    def state_dict(self) -> dict[str, Any]:
        """Say where the stream is after the batch that was handed out last."""
        return {**self.clips.state_dict(), "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at a saved place, with as many processes as there are now."""
        self.clips.load_state_dict(state)
        self._position = self.clips.position


def one_thread(worker: int) -> None:
    """Keep OpenCV's threads out of a DataLoader's worker: the workers share the cores already."""
    cv2.setNumThreads(0)


def _new_process() -> BaseContext:
    """How workers are started: from a process that has imported what they need, and no threads."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["aid_robot.data.clips"])
    return context
