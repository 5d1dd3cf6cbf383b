"""Clips as a torch Dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from aid_robot.data.clips.augmentation import Augmentation, Look
from aid_robot.data.clips.clip import Clip
from aid_robot.data.clips.config import ClipConfig
from aid_robot.data.clips.motion import moving_windows
from aid_robot.data.clips.reader import ClipReader
from aid_robot.data.clips.source import Source, open_source
from aid_robot.data.clips.split import Side, Split
from aid_robot.data.clips.windows import Weight, Window, Windows, choose_videos
from aid_robot.data.episode import Episode
from aid_robot.data.store.reader import StoreReader
from aid_robot.errors import ConfigError

# What random numbers are for, so that no two streams are the same.
_ORDER, _CLIP = 1, 2


class ClipDataset(Dataset[Clip]):
    """Random windows of episodes: an endless stream, `dataset[n]` is its n-th clip.

    The stream comes shuffled and weighted: read it in order, by a `ClipSampler`. An epoch is
    `len(dataset)` clips; `n` may be larger, and each epoch draws anew. Clip `i` of epoch `e` is a
    function of the seed, `e` and `i` alone, whatever process reads it, and when. Within an epoch
    each window comes as often as its weight says, to the next whole number: where all weigh the
    same, and the epoch has its default length, exactly once.

    Args:
        episodes: An EpisodeStore, or any episodes.
        config: What clips are cut.
        side: "train" or "val"; None for both.
        split: Which episodes are held out.
        augment: How clips are varied; None for not at all.
        weight: A further weight by episode, for example of its outcome or its skill; 0 leaves it
            out. Asked once, here.
        epoch: Clips of an epoch; by default as many as there are windows.
        seed: Of everything that is drawn.

    Raises:
        FrameRateError: An episode has another rate than the clips shall have.
        DataFormatError: No window is left, or an episode lacks what the config asks for.
        ConfigError: An argument is out of its range.
    """

    def __init__(
        self,
        episodes: StoreReader | Sequence[Episode],
        config: ClipConfig,
        *,
        side: Side | None = None,
        split: Split | None = None,
        augment: Augmentation | None = None,
        weight: Weight | None = None,
        epoch: int | None = None,
        seed: int = 0,
    ) -> None:
        if seed < 0:
            raise ConfigError(f"seed={seed} must be 0 or more")
        if epoch is not None and epoch < 1:
            raise ConfigError(f"epoch={epoch} must be at least 1")
        if side not in ("train", "val", None):
            raise ConfigError(f"side={side!r} must be 'train', 'val', or None for both")
        if augment is not None and config.latents:
            raise ConfigError("latents were cached of frames as they are: set augment=None")
        self.config, self.augment, self.seed = config, augment, seed
        self._source = open_source(episodes)
        self._reader = ClipReader(self._source, config)
        records = list(enumerate(self._source.record(i) for i in range(len(self._source))))
        if side is not None:
            held_out = (split or Split()).held_out(record for _, record in records)
            records = [pair for pair in records if (pair[1].id in held_out) == (side == "val")]
        videos, starts = choose_videos(records, config, weight), None
        if config.min_motion:
            videos, starts = moving_windows(self._source, videos, config)
        self.windows = Windows(videos, config, starts)
        if config.latents:
            # Now, rather than hours into a run.
            for video in videos:
                for camera in (video.camera,) if video.camera else self._cameras(video.episode):
                    self._reader.latents(Window(video.episode, camera, start=0, valid=1))
        self._epoch = epoch or len(self.windows)
        self._order: tuple[int, npt.NDArray[np.integer[Any]]] | None = None
        self.fingerprint = self._fingerprint({i: record.id for i, record in records})

    def __len__(self) -> int:
        """Count the clips of an epoch."""
        return self._epoch

    def __getitem__(self, number: int) -> Clip:
        window, rng = self.draw(int(number))
        record = self._source.record(window.episode)
        # As many draws whatever there is to choose from.
        camera, wording = rng.random(2)
        if not window.camera:
            cameras = self._cameras(window.episode)
            window = replace(window, camera=cameras[int(camera * len(cameras))])
        texts = record.instructions or ("",)
        instruction = texts[int(wording * len(texts))]
        look = Look() if self.augment is None else self.augment.draw(rng, instruction)
        return self._reader.read(window, instruction, look)

    def draw(self, number: int) -> tuple[Window, np.random.Generator]:
        """Draw a clip's window, and give what its wording and its look are drawn by."""
        epoch, place = divmod(number, self._epoch)
        if epoch < 0:
            raise IndexError(f"clip {number} was asked for; they are counted from 0")
        rng = np.random.default_rng([self.seed, epoch, place, _CLIP])
        # A random point of a random slice of the epoch, so that every slice is hit once.
        at = float(self._places(epoch)[place]) + rng.random() * (1 - 2**-20)
        return self.windows.pick(at, self._epoch), rng

    def opening(self, episode: int, camera: str) -> Window:
        """Give the window that an episode begins with."""
        length = -(-self._source.record(episode).length // self.config.stride)
        return Window(episode, camera, start=0, valid=min(self.config.num_frames, length))

    def __iter__(self) -> Iterator[Clip]:
        """Give the first epoch's clips."""
        return (self[number] for number in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_order": None}

    def fixed(self, per_video: int = 2) -> FixedClips:
        """Space windows evenly over each video, the same ones every time, for validation."""
        return FixedClips(self._source, self._reader, self.windows.evenly(per_video))

    def _cameras(self, episode: int) -> tuple[str, ...]:
        return self._source.record(episode).cameras

    def _places(self, epoch: int) -> npt.NDArray[np.integer[Any]]:
        """In which order an epoch's slices are visited."""
        kept = self._order
        if kept is None or kept[0] != epoch:
            slices = np.arange(self._epoch, dtype=np.min_scalar_type(self._epoch))
            np.random.default_rng([self.seed, epoch, 0, _ORDER]).shuffle(slices)
            self._order = kept = epoch, slices
        return kept[1]

    def _fingerprint(self, ids: Mapping[int, str]) -> str:
        """Name what the stream of clips is made from."""
        digest = blake2b(digest_size=8)
        # As a set, `outcomes` has no order; its effect is in the windows.
        settings = (replace(self.config, outcomes=None), self.augment, self.seed, self._epoch)
        names = [ids[episode] for episode in self.windows.episodes.tolist()]
        digest.update(json.dumps([repr(settings), names]).encode())
        digest.update(self.windows.signature)
        return digest.hexdigest()


class FixedClips(Dataset[Clip]):
    """Chosen windows, with the episode's first wording and first camera, not augmented."""

    def __init__(self, source: Source, reader: ClipReader, windows: Sequence[Window]) -> None:
        self._source, self._reader, self.windows = source, reader, windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, number: int) -> Clip:
        window = self.windows[number]
        record = self._source.record(window.episode)
        window = replace(window, camera=window.camera or record.cameras[0])
        return self._reader.read(window, record.instruction or "", Look())

    def __iter__(self) -> Iterator[Clip]:
        return (self[number] for number in range(len(self)))
