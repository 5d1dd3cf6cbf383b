"""What the classifier learns from: pictures before and after, with questions that have answers."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from aid_robot.data.episode import Episode
from aid_robot.errors import TrainingError
from aid_robot.observation import resize_frames

# As it happened; nothing done yet; run backwards.
Order = Literal["done", "still", "reversed"]
# Frames at the end of an episode that show the same.
ENDS = 3
# How often an episode that a model has imagined is seen as imagined.
IMAGINED_SHARE = 0.6


@dataclass(frozen=True)
class Question:
    """A text that is true or false of two moments."""

    # Every way to say it, made when asked for: there are many.
    wordings: Callable[[], Sequence[str]]
    true: bool
    # Of how it was before: what plans are about.
    changed: bool
    # "on", "next_to", "instruction", ...
    family: str


@dataclass(frozen=True)
class Place:
    """Where a thing is in the picture at two moments, x and y as shares of its sides."""

    # What it can be called.
    names: tuple[str, ...]
    before: tuple[float, float]
    after: tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """Two moments of an episode, and what can be asked of them."""

    order: Order
    questions: tuple[Question, ...]
    # Where that is known, as of simulated scenes; it teaches what names mean.
    places: tuple[Place, ...] = ()


class Asker(Protocol):
    """Who knows the answers."""

    def pairs(self, episode: Episode) -> Sequence[Pair]:
        """Return what can be asked about an episode."""

    def reached(self, episode: Episode, wanted: Episode) -> bool | None:
        """Say whether an episode brought about what another did from one start; None: unsure."""


class RecordedAsker:
    """Ask by instruction, outcome and captions, as any store has them.

    An instruction is true of an episode that succeeded, as demonstrations do; false of one that
    failed, of an episode run backwards, of its first frame, and those of other episodes always.
    """

    def __init__(self, instructions: Sequence[str]) -> None:
        self.instructions = sorted(set(instructions))

    def pairs(self, episode: Episode) -> Sequence[Pair]:
        own = tuple(text for text in (*episode.instructions, episode.instruction) if text)
        outcome = episode.outcome
        told: list[Question] = []
        if own and outcome in ("success", "demo", "failure"):
            told = [_question(own, outcome != "failure", True, "instruction")]
        start, end = ([*_captions(episode.info, place)] for place in ("start", "end"))
        undone = [_question(own, False, True, "instruction")] if own else []
        rng = np.random.default_rng(zlib.crc32(episode.id.encode()))
        others = [text for text in self.instructions if text not in own]
        picked = [others[i] for i in rng.permutation(len(others))[:2]] if own else []
        wrong = [_question((text,), False, True, "other instruction") for text in picked]
        pairs: tuple[tuple[Order, list[Question]], ...] = (
            ("done", told + end + wrong),
            ("still", undone + start),
            ("reversed", undone + start),
        )
        return [Pair(order, tuple(questions)) for order, questions in pairs if questions]

    def reached(self, episode: Episode, wanted: Episode) -> bool | None:
        if episode.id == wanted.id:
            return True
        same = set(episode.instructions) & set(wanted.instructions)
        return None if same or "failure" in (episode.outcome, wanted.outcome) else False


@dataclass(frozen=True, eq=False)
class Examples:
    """Episodes as the classifier sees them, in memory."""

    # (n, 1 + ENDS, size, size, 3): the first frame, and some at the end.
    frames: NDArray[np.uint8]
    pairs: tuple[tuple[Pair, ...], ...]
    ids: tuple[str, ...]
    scenes: tuple[str, ...]
    # (n, n') by row: index of another episode of the same scene, and whether the row's episode
    # brought about what that one did.
    matches: tuple[tuple[tuple[int, bool], ...], ...]
    # The end frames once more as a model's VAE gives them back, where one was named.
    blurred: NDArray[np.uint8] | None = None
    # The end frames as a model imagines them, and of which episodes it did.
    imagined: NDArray[np.uint8] | None = None
    is_imagined: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def with_imagined(self, ends: Mapping[str, NDArray[np.uint8]]) -> Examples:
        """Add imagined ends, (ENDS, size, size, 3) by the episode's id; some may be missing."""
        known = np.array([name in ends for name in self.ids])
        frames = self.frames[:, 1:].copy()
        for row in np.flatnonzero(known):
            frames[row] = ends[self.ids[row]]
        return replace(self, imagined=frames, is_imagined=known)

    def ends(self, row: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Draw an episode's end frames, (ENDS, size, size, 3): imagined, blurred, or true."""
        kind = rng.random()
        if self.imagined is not None and self.is_imagined is not None and self.is_imagined[row]:
            if kind < IMAGINED_SHARE:
                return np.asarray(self.imagined[row])
            kind = (kind - IMAGINED_SHARE) / (1 - IMAGINED_SHARE)
        if self.blurred is not None and kind < 0.5:
            return np.asarray(self.blurred[row])
        return np.asarray(self.frames[row, 1:])

    def digest(self) -> str:
        """Tell these examples from others."""
        total = hashlib.sha256(repr(self.ids).encode())
        for pictures in (self.frames, self.blurred, self.imagined):
            total.update(b"none" if pictures is None else np.ascontiguousarray(pictures).data)
        return total.hexdigest()

    def texts(self, rng: np.random.Generator, each: int = 12) -> Iterator[str]:
        """Yield wordings of random questions of all episodes, for a vocabulary."""
        for pairs in self.pairs:
            for pair in pairs:
                for index in rng.permutation(len(pair.questions))[:each]:
                    wordings = pair.questions[index].wordings()
                    yield from (wordings[i] for i in rng.integers(len(wordings), size=2))


def read_examples(
    episodes: Sequence[Episode], asker: Asker, size: int, *, vae: Any = None, bar: str = "read"
) -> Examples:
    """Read episodes, of which there must be some with questions.

    Args:
        episodes: Lazily read, one after the other.
        asker: Who knows the answers.
        size: Height and width of the pictures.
        vae: A model's VAE, through which the end frames go once more; None leaves that out.
        bar: What the progress bar says.
    """
    frames, pairs, kept = [], [], []
    for episode in tqdm(episodes, desc=bar, unit="episode"):
        asked = tuple(asker.pairs(episode))
        length = len(episode.frames)
        if length < ENDS + 1 or not asked:
            continue
        places = [0, *range(length - ENDS, length)]
        frames.append(resize_frames(np.stack([episode.frames[i] for i in places]), (size, size)))
        pairs.append(asked)
        kept.append(episode)
    if not kept:
        raise TrainingError(
            f"none of the {len(episodes)} episodes has an instruction or captions, and more than "
            f"{ENDS} frames: there is nothing to learn success from"
        )
    by_scene: dict[str, list[int]] = {}
    for index, episode in enumerate(kept):
        by_scene.setdefault(episode.scene or episode.id, []).append(index)
    matches: list[tuple[tuple[int, bool], ...]] = []
    for episode in kept:
        found = []
        for other in by_scene[episode.scene or episode.id]:
            reached = asker.reached(episode, kept[other])
            if reached is not None:
                found.append((other, reached))
        matches.append(tuple(found))
    stacked = np.stack(frames)
    return Examples(
        frames=stacked,
        pairs=tuple(pairs),
        ids=tuple(episode.id for episode in kept),
        scenes=tuple(episode.scene or episode.id for episode in kept),
        matches=tuple(matches),
        blurred=None if vae is None else reconstruct(vae, stacked[:, 1:]),
    )


def reconstruct(vae: Any, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Send frames (n, m, H, W, 3) through a VAE and back."""
    import torch

    from aid_robot.model.latents import decode, encode, to_frames, to_pixels

    flat = torch.from_numpy(frames.reshape(-1, 1, *frames.shape[2:]))
    parts = []
    with torch.inference_mode():
        for chunk in tqdm(flat.split(32), desc="blur", unit="batch"):
            latents = encode(vae, to_pixels(chunk).to(vae.device))
            parts.append(to_frames(decode(vae, latents)).cpu().numpy())
    return np.asarray(np.concatenate(parts).reshape(frames.shape))


def _question(texts: Sequence[str], true: bool, changed: bool, family: str) -> Question:
    return Question(lambda: texts, true, changed, family)


def _captions(info: Any, place: str) -> Iterator[Question]:
    captions = info.get("captions", {}) if hasattr(info, "get") else {}
    for caption in captions.get(place, ()) if hasattr(captions, "get") else ():
        yield _question((caption["text"],), bool(caption["true"]), False, str(caption["goal"][0]))
