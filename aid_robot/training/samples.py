"""What a step is computed from: clips, what is cached of them, and pictures with captions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aid_robot.data.clips import (
    Augmentation,
    Clip,
    ClipBatch,
    ClipConfig,
    ClipDataset,
    Look,
    Window,
    collate,
)
from aid_robot.data.episode import FloatArray, FrameSequence, UInt8Array
from aid_robot.errors import DataFormatError
from aid_robot.model.pointer import ROLES
from aid_robot.training.views import ALTERNATIVES, PLACES, View

_PAIR, _POINTED = 3, 4
# Every so many-th row of alternatives is of free windows, so that clips which begin in the middle
# of a motion are seen as well.
_FREE = 4


@dataclass(frozen=True, eq=False)
class Pair:
    """A frame, a text that is true of it, and one that is false ("" where none is known)."""

    frame: UInt8Array  # (H, W, 3)
    caption: str
    false_caption: str = ""


@dataclass(frozen=True, eq=False)
class Pointed:
    """An episode's first frame, its instruction, and where what that names is."""

    frame: UInt8Array  # (H, W, 3)
    instruction: str
    # (2, 2): x, y in [0, 1] of each of `ROLES`; NaN where there is none or it is out of sight.
    places: FloatArray


@dataclass(frozen=True, eq=False)
class Sample(Clip):
    """A clip with what was computed of it before."""

    # Episodes of one group begin alike.
    group: str = ""
    # Latents of the given frames with SVD's noise on them, (K, C, h, w).
    given: FloatArray | None = None
    # The first frame's tokens by the image tower, (P, D).
    image: FloatArray | None = None
    # The instruction's tokens and its states', (1 + S, T, D).
    text: FloatArray | None = None
    pair: Pair | None = None
    pointed: Pointed | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """B samples as tensors."""

    clips: ClipBatch
    groups: tuple[str, ...] = ()
    given: Tensor | None = None  # (B, K, C, h, w)
    image: Tensor | None = None  # (B, P, D)
    text: Tensor | None = None  # (B, 1 + S, T, D)
    pair_frames: Tensor | None = None  # (B, H, W, 3) uint8
    captions: tuple[str, ...] = ()
    false_captions: tuple[str, ...] = ()
    # Of those that know places, which may be fewer.
    pointed_frames: Tensor | None = None  # (b, H, W, 3) uint8
    pointed_texts: tuple[str, ...] = ()
    pointed_places: Tensor | None = None  # (b, 2, 2)

    def __len__(self) -> int:
        return len(self.clips)

    def to(self, device: torch.device) -> Batch:
        """Copy the tensors to a device."""
        return self._mapped(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Copy the tensors to pinned memory."""
        return self._mapped(lambda value: value.pin_memory())

    def _mapped(self, change: Callable[[Any], Any]) -> Batch:
        changed: dict[str, Any] = {
            name: change(value) if isinstance(value, Tensor | ClipBatch) else value
            for name, value in vars(self).items()
        }
        return Batch(**changed)


def collate_samples(samples: Sequence[Sample]) -> Batch:
    """Stack samples that have the same parts."""

    def stacked(name: str) -> Tensor | None:
        parts = [getattr(sample, name) for sample in samples]
        if any(part is None for part in parts):
            return None
        return torch.from_numpy(np.stack(parts).astype(np.float32, copy=False))

    pairs = [sample.pair for sample in samples if sample.pair is not None]
    pointed = [sample.pointed for sample in samples if sample.pointed is not None]
    return Batch(
        clips=collate(samples),
        groups=tuple(sample.group for sample in samples),
        given=stacked("given"),
        image=stacked("image"),
        text=stacked("text"),
        pair_frames=torch.from_numpy(np.stack([pair.frame for pair in pairs])) if pairs else None,
        captions=tuple(pair.caption for pair in pairs),
        false_captions=tuple(pair.false_caption for pair in pairs),
        pointed_frames=torch.from_numpy(np.stack([p.frame for p in pointed])) if pointed else None,
        pointed_texts=tuple(p.instruction for p in pointed),
        pointed_places=torch.from_numpy(np.stack([p.places for p in pointed])) if pointed else None,
    )


def first(batch: Batch, count: int) -> Batch:
    """Take the first few of a batch."""

    def cut(value: Any) -> Any:
        if isinstance(value, ClipBatch):
            return ClipBatch(**{name: cut(part) for name, part in vars(value).items()})
        return value[:count] if isinstance(value, Tensor | tuple) else value

    return Batch(**{name: cut(part) for name, part in vars(batch).items()})


def distinct(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return those of frames (B, H, W, 3) that differ, and which of them each frame is, (B,)."""
    known: dict[bytes, int] = {}
    rows = [known.setdefault(row.tobytes(), len(known)) for row in frames.cpu().numpy()]
    firsts = [rows.index(number) for number in range(len(known))]
    return frames[firsts], torch.tensor(rows, device=frames.device)


def other_instructions(some: Batch, batch: Batch) -> Batch:
    """Give each clip the instruction of another that has a different one.

    One that begins alike is taken where there is such: its instruction can be carried out, too.
    """
    told = list(zip(batch.clips.instructions, batch.groups, strict=True))
    known = list(dict.fromkeys(batch.clips.instructions))
    others = []
    for text, group in zip(some.clips.instructions, some.groups, strict=True):
        alike = [other for other, name in told if name == group and other != text]
        others.append(alike[0] if alike else known[(known.index(text) + 1) % len(known)])
    return replace(some, clips=replace(some.clips, instructions=tuple(others)), text=None)


class SampleDataset(ClipDataset):
    """Clips of views of episodes, with what was cached of them.

    Args:
        views: Which episodes, and how they look.
        config: What clips are cut.
        augment: How clips are varied that aren't cached.
        pairs: How pictures for captions are varied; None for no such pictures.
        points: How first frames are varied in which things are pointed at; None for no such.
        alternatives: Clips in a row that show different futures of one start, where there are such,
            so that nothing but the instruction tells them apart.
        seed: Of everything that is drawn.
    """

    def __init__(
        self,
        views: Sequence[View],
        config: ClipConfig,
        *,
        augment: Augmentation | None = None,
        pairs: Augmentation | None = None,
        points: Augmentation | None = None,
        alternatives: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__([view.episode for view in views], config, augment=augment, seed=seed)
        self._views = {view.episode.id: view for view in views}
        self._pairs, self._points, self._row = pairs, points, alternatives
        if alternatives > 1:
            self.fingerprint = f"{self.fingerprint}-{alternatives}"
        # Numbers of episodes that begin alike, of one version each.
        self._alike: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._group_of: dict[int, tuple[str, int]] = {}
        windows = set(self.windows.episodes.tolist())
        for number, view in enumerate(views):
            name = view.episode.info.get(ALTERNATIVES)
            if isinstance(name, str) and number in windows:
                self._group_of[number] = (name, view.version)
                self._alike[name, view.version].append(number)

    def __getitem__(self, number: int) -> Sample:
        clip = super().__getitem__(number)
        pair = None
        if self._pairs is not None:
            rng = np.random.default_rng([self.seed, number, _PAIR])
            pair = draw_pair(self._views[clip.episode], clip, rng, self._pairs, self.config.size)
        # A row of clips that begin alike looks alike.
        look = [self.seed, number // self._row, _POINTED]
        return self._completed(clip, pair, self._pointed(clip, look))

    def _pointed(self, clip: Clip, seed: Sequence[int] | None) -> Pointed | None:
        """Draw where a clip's instruction points; without a seed, in the frame as it is."""
        if self._points is None:
            return None
        view, look = self._views[clip.episode], Look()
        if seed is not None:
            look = self._points.draw(np.random.default_rng(list(seed)), clip.instruction)
        return point_at(view, clip, look, self.config.size)

    def draw(self, number: int) -> tuple[Window, np.random.Generator]:
        """Draw a window; those of a row begin alike."""
        row, place = divmod(number, self._row)
        window, rng = super().draw(number)
        if self._row == 1 or row % _FREE == _FREE - 1:
            return window, rng
        first, of_row = super().draw(row * self._row)
        group = self._group_of.get(first.episode)
        if group is None or len(self._alike[group]) < 2:
            return window, rng
        order = of_row.permutation(self._alike[group])
        episode = int(order[place % len(order)])
        # One camera and one look for all of them, so that the towers see one picture.
        return self.opening(episode, first.camera), of_row

    def choose(self, count: int) -> list[Sample]:
        """Choose windows spaced evenly over all videos, the same ones every time.

        Where videos have alternatives, every second is one of the first: in pairs that begin alike
        it shows whether the instruction matters.
        """
        fixed = self.fixed(per_video=1)
        groups = [self._group_of.get(window.episode) for window in fixed.windows]
        partners = {
            place: place + 1
            for place, (group, following) in enumerate(pairwise(groups))
            if group is not None and group == following
        }
        wanted = min(count, len(fixed))
        firsts = np.linspace(0, len(fixed) - 1, -(-wanted // (2 if partners else 1)))
        spread = [int(place) for place in firsts.round()]
        places = list(dict.fromkeys(
            other for place in spread for other in (place, partners.get(place, place))
        ))[:wanted]  # fmt: skip
        chosen = []
        for place in places:
            clip, pair = fixed[int(place)], None
            if self._pairs is not None:
                rng = np.random.default_rng([self.seed, int(place), _PAIR])
                view = self._views[clip.episode]
                pair = draw_pair(view, clip, rng, None, self.config.size, contrast=True)
            chosen.append(self._completed(clip, pair, self._pointed(clip, None)))
        return chosen

    def _completed(self, clip: Clip, pair: Pair | None, pointed: Pointed | None) -> Sample:
        view, config = self._views[clip.episode], self.config
        span = slice(clip.start, clip.start + (config.num_given - 1) * config.stride + 1)
        given = view.given.get(clip.camera)
        image = view.images.get(clip.camera)
        return Sample(
            **vars(clip),
            group=str(view.episode.info.get(ALTERNATIVES, view.episode.id)),
            given=None if given is None else given[span][:: config.stride],
            image=None if image is None else image[clip.start : clip.start + 1][0],
            text=view.text_of(clip.instruction) if view.texts else None,
            pair=pair,
            pointed=pointed,
        )


def point_at(view: View, clip: Clip, look: Look, size: tuple[int, int] | None) -> Pointed | None:
    """Point at what a clip's instruction names, in the first frame; None where nobody knows."""
    if not clip.instruction or not knows_places(view.episode.info, clip.camera):
        return None
    known, places = view.episode.info[PLACES][clip.camera], np.full((len(ROLES), 2), np.nan)
    try:
        for number, role in enumerate(ROLES):
            if role in known:
                x, y = known[role]
                places[number] = float(x), float(y)
    except (TypeError, ValueError) as error:
        raise DataFormatError(
            f"episode '{clip.episode}' has {PLACES} in another form ({error!r}); expected "
            '{"image_0": {"object": [x, y], "target": [x, y]}}, from 0, 0 at the top left to 1, 1'
        ) from error
    places = look.places(places.astype(np.float32))
    places[~((places >= 0) & (places < 1)).all(1)] = np.nan
    return Pointed(look.frames(view.plain[clip.camera][:1], size)[0], clip.instruction, places)


def knows_places(info: Mapping[str, Any], camera: str | None = None) -> bool:
    """Say whether a recording's info says where things are, in some camera or in this one."""
    known = info.get(PLACES)
    if not isinstance(known, Mapping):
        return False
    cameras = known if camera is None else [camera]
    return any(isinstance(known.get(c), Mapping) and known[c] for c in cameras)


def draw_pair(
    view: View,
    clip: Clip,
    rng: np.random.Generator,
    augment: Augmentation | None,
    size: tuple[int, int] | None,
    contrast: bool = False,
) -> Pair:
    """Draw a picture of a clip's episode and a text that is true of it.

    It is the clip's first frame with its instruction; or, where the episode's info has captions,
    its first or last frame with a true one and the false one that goes with it. `contrast` takes
    a caption wherever there is one.
    """
    frames: FrameSequence = view.plain[clip.camera]
    choices = [(clip.start, clip.instruction, "")] if clip.instruction else []
    captions = view.episode.info.get("captions")
    captioned = []
    for place, moment in ((0, "start"), (len(frames) - 1, "end")):
        for true, false in _true_and_false(captions, moment, clip.episode):
            captioned.append((place, true, false))
    if captioned and (contrast or not choices or rng.random() < 2 / 3):
        choices = captioned
    if not choices:
        raise DataFormatError(
            f"episode '{clip.episode}' has neither an instruction nor captions; expected one: "
            "leave it out, or train without the stage 'clip'"
        )
    place, true, false = choices[int(rng.integers(len(choices)))]
    look = Look()
    if augment is not None:
        look = augment.draw(rng, f"{true} {false}")
    return Pair(look.frames(frames[place : place + 1], size)[0], true, false)


def _true_and_false(captions: Any, moment: str, episode: str) -> list[tuple[str, str]]:
    """Read the pairs that the simulator writes: a true caption, then a false one of its kind."""
    if not captions:
        return []
    try:
        texts = {truth: [str(c["text"]) for c in captions.get(moment, []) if c["true"] is truth]
                 for truth in (True, False)}  # fmt: skip
    except (TypeError, KeyError, AttributeError) as error:
        raise DataFormatError(
            f"episode '{episode}' has captions in another form ({error!r}); expected "
            '{"start": [{"text": ..., "true": true}, ...], "end": [...]}'
        ) from error
    false = texts[False] or [""]
    return [(true, false[place % len(false)]) for place, true in enumerate(texts[True])]
