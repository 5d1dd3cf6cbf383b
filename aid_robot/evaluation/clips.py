"""Which clips are judged, and how they are read.

The choice is a function of the protocol and of the recordings alone. Clips are numbered in the
order of a hash of where they start, so that any first part of a run is a random sample.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from aid_robot.data.episode import Episode, FrameSequence, UInt8Array
from aid_robot.data.frames import EncodedFrames, VideoFrames
from aid_robot.data.ingest import Recording, open_recording
from aid_robot.data.ingest.store import StoreRecording
from aid_robot.data.store import EpisodeRecord
from aid_robot.data.store.split import hashed
from aid_robot.errors import AIDRobotError, ConfigError, DataFormatError
from aid_robot.evaluation.protocols import ClipSet, EvaluationProtocol, digest
from aid_robot.observation import resize_frames

if TYPE_CHECKING:
    from aid_robot.data.clips import Split


@dataclass(frozen=True)
class Source:
    """A recording, as `open_recording` takes it."""

    path: str
    format: str | None = None
    fps: float | None = None

    @property
    def name(self) -> str:
        """The path without its folder."""
        return self.path.rstrip("/").rpartition("/")[2]

    def open(self) -> Recording:
        """Open it."""
        return open_recording(self.path, self.format, fps=self.fps)


@dataclass(frozen=True)
class ClipAt:
    """Where a clip is, and what is said of it."""

    # Place of its recording among the sources, and its episode's number in it.
    source: int
    index: int
    episode: str
    camera: str
    start: int
    stride: int
    # What it is resampled with: its scene, or its episode where that is unknown.
    cluster: str
    # Clips of one group start from the very same moment; its own name for a clip alone.
    group: str
    instruction: str
    # Another wording of the instruction, and an instruction that means something else; "" where
    # there is none.
    paraphrase: str = ""
    other: str = ""

    @property
    def key(self) -> str:
        """Name the clip, the same wherever the recording lies."""
        return f"{self.episode}@{self.start}" + (f"/{self.camera}" if self.camera else "")


@dataclass(frozen=True)
class Chosen:
    """The clips of an evaluation."""

    clips: tuple[ClipAt, ...]
    facts: ClipSet
    # Episodes that can't be read -> why.
    unreadable: dict[str, str] = field(default_factory=dict)

    def tasks(self, size: int) -> list[tuple[ClipAt, ...]]:
        """Divide the clips into lists of about `size`, groups kept together.

        What is predicted in one call is thus the same for any number of processes and after any
        stop, and so is every figure, to the last bit.
        """
        tasks: list[tuple[ClipAt, ...]] = []
        task: list[ClipAt] = []
        for unit in _units(self.clips):
            if task and len(task) + len(unit) > size:
                tasks.append(tuple(task))
                task = []
            task += unit
        return [*tasks, tuple(task)] if task else tasks


def choose_clips(
    sources: Sequence[Source], protocol: EvaluationProtocol, split: Split | None = None
) -> Chosen:
    """Choose the clips of a protocol.

    Args:
        sources: Where episodes are.
        protocol: How clips are cut.
        split: Which episodes are held out; by default a tenth, by the hash of the scene.

    Raises:
        DataFormatError: No clip is left; it says what became of the episodes.
    """
    read = _read_records(sources)
    records = read.records
    wanted, how = _side([record for _, _, record in records], protocol.split, split)
    left_out: Counter[str] = Counter()
    if read.unreadable:
        left_out["unreadable"] = len(read.unreadable)
    found: list[ClipAt] = []
    ids: dict[str, int] = {}
    for number, index, record in records:
        problem = _problem(record, protocol)
        if record.id in wanted and problem:
            left_out[problem] += 1
        elif record.id in wanted:
            # Two recordings may call their episodes alike.
            name = (
                record.id
                if ids.setdefault(record.id, number) == number
                else f"{number}:{record.id}"
            )
            found += _cut(record, protocol, number, index, name)
    if not found:
        reasons = ", ".join(f"{count} {why}" for why, count in left_out.most_common())
        raise DataFormatError(
            f"no clip is left of {len(records)} episodes in {', '.join(s.name for s in sources)}: "
            f"{len(wanted)} are on this side of the split ({how})"
            + (f", of which {reasons}" if reasons else "")
            + f"; expected one of at least {protocol.num_frames} frames at {protocol.fps:g} a "
            "second with an instruction: change the protocol or the split"
        )
    found.sort(
        key=lambda clip: (hashed(clip.group, protocol.seed), clip.group, clip.episode, clip.start)
    )
    clips = _with_others(_first(found, protocol.clips))
    facts = ClipSet(
        sources=tuple(source.name for source in sources),
        codecs=tuple(read.codecs),
        recorded=tuple(read.sizes),
        strides=tuple(sorted({clip.stride for clip in clips})),
        split=how,
        split_hash=digest(sorted(wanted)),
        episodes=len({clip.episode for clip in clips}),
        clusters=len({clip.cluster for clip in clips}),
        clips=len(clips),
        clips_hash=digest(
            [(c.key, c.stride, c.group, c.instruction, c.paraphrase, c.other) for c in clips]
        ),
        left_out=dict(left_out),
    )
    return Chosen(tuple(clips), facts, read.unreadable)


def cut_clip(episode: Episode, clip: ClipAt, protocol: EvaluationProtocol) -> UInt8Array:
    """Decode a clip of its episode at the protocol's size, (N, H, W, 3)."""
    stop = clip.start + (protocol.num_frames - 1) * clip.stride + 1
    frames = episode.videos[clip.camera or episode.camera][clip.start : stop : clip.stride]
    if len(frames) < protocol.num_frames:
        raise DataFormatError(
            f"episode '{clip.episode}' has {len(frames)} of the {protocol.num_frames} frames that "
            "it had when the clips were chosen: start the evaluation anew"
        )
    return resize_frames(frames, protocol.size)


@dataclass
class _Records:
    """What recordings hold."""

    # Place of the recording, number of the episode in it, and what is known of it.
    records: list[tuple[int, int, EpisodeRecord]] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    # How frames are stored, and how large, as keys in the order of the recordings.
    codecs: dict[str, None] = field(default_factory=dict)
    sizes: dict[str, None] = field(default_factory=dict)


def _read_records(sources: Sequence[Source]) -> _Records:
    found = _Records()
    for number, source in enumerate(sources):
        recording = source.open()
        is_first = True
        for index in tqdm(range(len(recording)), desc=source.name, unit="episode", leave=False):
            try:
                record = _record(recording, index)
                if is_first:
                    frames = recording[index].frames
                    found.sizes[f"{frames.size[1]}x{frames.size[0]}"] = None
                    found.codecs[_codec(recording, frames)] = None
                    is_first = False
            except (AIDRobotError, OSError) as error:
                found.unreadable[f"{source.name}#{index}"] = " ".join(str(error).split())
            else:
                found.records.append((number, index, record))
    return found


def _record(recording: Recording, index: int) -> EpisodeRecord:
    if isinstance(recording, StoreRecording):
        return recording.store.records[index]
    episode = recording[index]
    return EpisodeRecord.of(episode, len(episode))


def _side(
    records: Sequence[EpisodeRecord], choice: str, split: Split | None
) -> tuple[set[str], str]:
    """Name the episodes on a side of the split, and say how they were chosen."""
    from aid_robot.data.clips import Split

    ids = {record.id for record in records}
    if choice == "all":
        return ids, "all episodes, with those that a model may have been trained on"
    if choice in ("held-out", "train"):
        rule = split or Split()
        held_out = set(rule.held_out(records))
        whose = "the model's own rule" if split else "the default rule"
        what = f"{rule.share:.0%} by the hash of the scene, seed {rule.seed}, {whose}"
        if choice == "train":
            return ids - held_out, f"trained on: all but the held-out {what}"
        return held_out, f"held out: {what}"
    path = Path(choice)
    if not path.is_file():
        raise ConfigError(
            f"split='{choice}' is neither 'held-out', 'train' or 'all', nor a file; expected one "
            "that names episodes, one a line or as a JSON list, or a model's split.json"
        )
    named = _read_ids(path)
    if not named & ids:
        example = next(iter(sorted(ids)), "none")
        raise DataFormatError(
            f"none of the {len(named)} episodes that {path} names is in the recordings; their ids "
            f"look like '{example}'"
        )
    return named & ids, f"{len(named & ids)} of the {len(named)} episodes in {path.name}"


def _read_ids(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    if text.lstrip()[:1] in ("[", "{"):
        try:
            content = json.loads(text)
        except ValueError as error:
            raise DataFormatError(f"{path} can't be read as JSON ({error}): restore it") from error
        if isinstance(content, dict):  # the split.json of a trained model
            content = content.get("held_out")
        if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
            raise DataFormatError(
                f"{path} holds JSON that is no list of episode ids, nor has one as 'held_out': "
                "make it one"
            )
        return set(content)
    return {line.strip() for line in text.splitlines() if line.strip()}


def _problem(record: EpisodeRecord, protocol: EvaluationProtocol) -> str:
    """Say why no clip can be cut from an episode, "" where one can."""
    if (record.outcome or "") not in protocol.outcomes:
        return f"of outcome {record.outcome or 'unlabelled'}"
    if record.fps is None:
        return "of unknown rate"
    stride = round(record.fps / protocol.fps)
    if stride < 1 or abs(record.fps / protocol.fps - stride) > 1e-3:
        return f"of {record.fps:g} fps"
    if protocol.camera != "default" and protocol.camera not in record.cameras:
        return f"without camera {protocol.camera}"
    if record.length < (protocol.num_frames - 1) * stride + 1:
        return "too short"
    return "" if record.instruction else "without instruction"


def _cut(
    record: EpisodeRecord, protocol: EvaluationProtocol, source: int, index: int, name: str
) -> Iterator[ClipAt]:
    stride = round((record.fps or 0) / protocol.fps)
    last = record.length - ((protocol.num_frames - 1) * stride + 1)
    places = np.linspace(0, last, protocol.clips_per_episode).round().astype(int)
    together = str(record.info.get("alternatives_group", ""))
    for start in dict.fromkeys(places.tolist()):
        key = f"{name}@{start}"
        wordings = record.instructions[1:]
        place = int(hashed(f"wording {key}", protocol.seed) * len(wordings))
        yield ClipAt(
            source=source,
            index=index,
            episode=name,
            camera="" if protocol.camera == "default" else protocol.camera,
            start=start,
            stride=stride,
            cluster=record.scene or name,
            group=f"{source}:{together}" if together and start == 0 else key,
            instruction=record.instruction or "",
            paraphrase=wordings[place] if wordings else "",
        )


def _units(clips: Sequence[ClipAt]) -> Iterator[list[ClipAt]]:
    """Give neighbours of one group together."""
    unit: list[ClipAt] = []
    for clip in clips:
        if unit and clip.group != unit[0].group:
            yield unit
            unit = []
        unit.append(clip)
    if unit:
        yield unit


def _first(clips: Sequence[ClipAt], count: int | None) -> list[ClipAt]:
    """Take the first whole groups, of at most `count` clips; the first group in any case."""
    if count is None:
        return list(clips)
    taken: list[ClipAt] = []
    for unit in _units(clips):
        if taken and len(taken) + len(unit) > count:
            break
        taken += unit
    return taken


def _with_others(clips: Sequence[ClipAt]) -> list[ClipAt]:
    """Give each clip an instruction of another meaning: of its group, else of the next clip."""
    groups: dict[str, list[str]] = {}
    for clip in clips:
        groups.setdefault(clip.group, []).append(clip.instruction)
    found = []
    for place, clip in enumerate(clips):
        texts = groups[clip.group]
        at = texts.index(clip.instruction)
        following = [*texts[at + 1 :], *texts[:at]]
        # Not all of them: in a large set the next few clips will do.
        around = (clips[(place + step) % len(clips)].instruction for step in range(1, len(clips)))
        other = next((text for text in following if _differ(text, clip.instruction)), None)
        if other is None:
            other = next((text for text in around if _differ(text, clip.instruction)), "")
        found.append(replace(clip, other=other))
    return found


def _differ(first: str, second: str) -> bool:
    return first.casefold().split() != second.casefold().split()


def _codec(recording: Recording, frames: FrameSequence) -> str:
    """Say how frames are stored."""
    if isinstance(recording, StoreRecording):
        settings = recording.store.settings
        if settings is not None:
            quality = getattr(settings.codec, "quality", None)
            return settings.codec_name + (f" quality {quality}" if quality else "")
    if isinstance(frames, VideoFrames):
        return f"{recording.format} {frames.path.suffix.lstrip('.')}"
    if isinstance(frames, EncodedFrames):
        image = frames.encoded(0)
        return f"{recording.format} {'jpeg' if image is not None else 'png'}"
    return recording.format
