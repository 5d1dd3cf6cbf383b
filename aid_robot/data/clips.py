"""Windows of N frames out of recorded episodes, for training and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from aid_robot.data.episode import Episode
from aid_robot.errors import DataFormatError
from aid_robot.observation import resize_frames

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Scalar = TypeVar("Scalar", np.uint8, np.float32)


@dataclass(frozen=True)
class LoadedEpisode:
    """One camera of an episode, in memory at the size that clips are cut from."""

    id: str
    frames: UInt8Array  # (T, H, W, 3)
    instructions: tuple[str, ...]
    # None where the rate of the world is unknown.
    fps: float | None


@dataclass(frozen=True)
class Clip:
    """A window of an episode."""

    frames: UInt8Array  # (N, H, W, 3); frames past the episode's end repeat its last one
    valid: int  # frames that are real, 1 <= valid <= N
    instruction: str  # "" where the episode has none
    episode: str
    latents: FloatArray | None = None  # (N, C, h, w), unscaled, where they were cached


def load_episodes(
    episodes: Iterable[Episode], height: int, width: int, *, all_cameras: bool = False
) -> list[LoadedEpisode]:
    """Decode episodes into memory, squashed to a size as Bridge does it."""
    loaded = []
    for episode in episodes:
        cameras = list(episode.videos) if all_cameras else [episode.camera]
        for camera in cameras:
            frames = np.concatenate(
                [resize_frames(frame[None], (height, width)) for frame in episode.videos[camera]]
            )
            loaded.append(
                LoadedEpisode(
                    id=f"{episode.id}/{camera}",
                    frames=frames,
                    instructions=episode.instructions,
                    fps=episode.fps,
                )
            )
    return loaded


@dataclass(frozen=True)
class _Version:
    """An episode as augmented once, and its latents."""

    frames: UInt8Array  # (T, H, W, 3)
    latents: FloatArray  # (T, C, h, w)


class ClipSampler:
    """Draw random, lightly augmented windows; the generator handed in is the only state.

    Augmentation is the same for all frames of a clip: a crop of 7/8 to 8/8 of the frame at a
    random place, a mirrored frame where the instruction names no side, and a change of brightness,
    contrast and colour.

    Args:
        episodes: In memory, larger than the clips by 8/7.
        num_frames: N.
        size: Height and width of the clips.
        min_frames: Episodes with fewer frames are left out.
    """

    def __init__(
        self,
        episodes: Sequence[LoadedEpisode],
        num_frames: int,
        size: tuple[int, int],
        min_frames: int = 8,
    ) -> None:
        self.episodes = [e for e in episodes if len(e.frames) >= min_frames]
        self.num_frames = num_frames
        self.size = size
        self.min_frames = min_frames
        if not self.episodes:
            raise DataFormatError(
                f"none of {len(episodes)} episodes has {min_frames} frames or more: "
                "give longer recordings"
            )
        # An episode counts by how many different windows it has, longer ones less than in full.
        starts = [max(1, len(e.frames) - min_frames + 1) for e in self.episodes]
        self._weights = np.sqrt(starts) / np.sqrt(starts).sum()
        self._versions: list[list[_Version]] = []

    def cache_latents(
        self, encode: Callable[[UInt8Array], FloatArray], versions: int, seed: int = 0
    ) -> None:
        """Augment and encode every episode a few times over; clips are then cut out of these.

        Args:
            encode: (T, H, W, 3) uint8 -> (T, C, h, w) latents.
            versions: Augmented copies of each episode.
            seed: Of the augmentation.
        """
        rng = np.random.default_rng(seed)
        for episode in tqdm(self.episodes, desc="encode", unit="video"):
            text = " ".join(episode.instructions)
            augmented = [_augment(episode.frames, self.size, text, rng) for _ in range(versions)]
            self._versions.append([_Version(frames, encode(frames)) for frames in augmented])

    def draw(self, rng: np.random.Generator, num_frames: int | None = None) -> Clip:
        """Draw one clip."""
        num_frames = num_frames or self.num_frames
        index = rng.choice(len(self.episodes), p=self._weights)
        episode = self.episodes[index]
        last_start = max(0, len(episode.frames) - min(num_frames, self.min_frames))
        start = int(rng.integers(last_start + 1))
        window = slice(start, start + num_frames)
        texts = episode.instructions
        instruction = texts[rng.integers(len(texts))] if texts else ""
        latents = None
        if self._versions:
            version = self._versions[index][rng.integers(len(self._versions[index]))]
            frames = version.frames[window]
            latents = _pad(version.latents[window], num_frames)
        else:
            frames = _augment(episode.frames[window], self.size, instruction, rng)
        valid = len(frames)
        return Clip(_pad(frames, num_frames), valid, instruction, episode.id, latents)


def fixed_clips(
    episodes: Sequence[LoadedEpisode], num_frames: int, size: tuple[int, int], per_episode: int = 2
) -> list[Clip]:
    """Cut the same evenly spaced windows every time, not augmented, for validation."""
    clips = []
    for episode in episodes:
        last = max(0, len(episode.frames) - num_frames)
        for start in sorted({round(at) for at in np.linspace(0, last, per_episode)}):
            window = episode.frames[start : start + num_frames]
            frames = resize_frames(window, size)
            instruction = episode.instructions[0] if episode.instructions else ""
            clips.append(Clip(_pad(frames, num_frames), len(window), instruction, episode.id))
    return clips


def _pad(frames: npt.NDArray[Scalar], num_frames: int) -> npt.NDArray[Scalar]:
    """Repeat the last frame where an episode ends within the window."""
    missing = num_frames - len(frames)
    return np.concatenate([frames, frames[-1:].repeat(missing, axis=0)]) if missing else frames


def _augment(
    frames: UInt8Array, size: tuple[int, int], instruction: str, rng: np.random.Generator
) -> UInt8Array:
    height, width = frames.shape[1:3]
    zoom = rng.uniform(7 / 8, 1.0)
    crop_height, crop_width = round(height * zoom), round(width * zoom)
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    cropped = frames[:, top : top + crop_height, left : left + crop_width]
    words = instruction.lower()
    if rng.random() < 0.5 and "left" not in words and "right" not in words:
        cropped = cropped[:, :, ::-1]
    resized = resize_frames(np.ascontiguousarray(cropped), size)
    # Gain for each colour, contrast and brightness, the same for the whole clip.
    gain = rng.uniform(0.9, 1.1, size=3) * rng.uniform(0.85, 1.15)
    values = resized.astype(np.float32) * gain + rng.uniform(-12, 12)
    clipped: UInt8Array = values.round().clip(0, 255).astype(np.uint8)
    return clipped
