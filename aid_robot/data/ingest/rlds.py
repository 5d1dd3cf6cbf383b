"""RLDS data sets as TFDS writes them, such as `bridge_dataset`, read without TensorFlow.

    <name>/<version>/dataset_info.json
    <name>/<version>/<name>-<split>.tfrecord-00000-of-00001

or a single .tfrecord file. A record is an episode; its steps' fields are lists over time. Cameras
are all fields below steps/observation that hold JPEG or PNG; one that is black throughout is left
out. What `episode_metadata/has_image_*` says is not relied on: there are files where it is wrong.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from aid_robot.data.episode import Episode, FloatArray
from aid_robot.data.frames import EncodedFrames
from aid_robot.data.ingest.example import Values, parse_example
from aid_robot.data.ingest.recording import (
    BRIDGE_FPS,
    Format,
    Recording,
    distinct_texts,
    fit_rows,
    inside,
    natural_key,
    read_json,
)
from aid_robot.data.ingest.tfrecord import SMALLEST_RECORD, RecordFile
from aid_robot.errors import DataFormatError, TruncatedFileError

_INFO = "dataset_info.json"
_OBSERVATION = "steps/observation/"
_INSTRUCTIONS = ("steps/language_instruction", _OBSERVATION + "natural_language_instruction")
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG"
_DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclass(frozen=True)
class _Shard:
    """A file of records, and how many the data set's description says it holds."""

    records: RecordFile
    count: int


class RLDSRecording(Recording):
    """Episodes in the TFRecord shards of a TFDS data set, all splits one after the other.

    Ids are TFDS's own: `<shard>__<record>`. A shard is opened when its first episode is asked for.
    """

    format = "rlds"

    def __init__(self, path: Path, fps: float | None = None) -> None:
        super().__init__(path, fps)
        if path.is_file():
            records = RecordFile(path)
            if not len(records):
                raise TruncatedFileError(f"{path} is empty; copy it again from its source")
            self._shards, self._name = [_Shard(records, len(records))], path.name
        else:
            self._shards, self._name, self.notes = _shards(_version_folder(path))
        self._ends = list(accumulate(shard.count for shard in self._shards))

    def __len__(self) -> int:
        return self._ends[-1]

    def _list_ids(self) -> Sequence[str]:
        return [
            f"{shard.records.path.name}__{record}"
            for shard in self._shards
            for record in range(shard.count)
        ]

    def _read(self, index: int) -> Episode:
        place = bisect_right(self._ends, index)
        shard = self._shards[place]
        record = index - (self._ends[place] - shard.count)
        records = shard.records
        if len(records) != shard.count:
            raise TruncatedFileError(
                f"{records.path} holds {len(records)} episodes, but {_INFO} says {shard.count}: "
                "copy both again from their source"
            )
        where = f"{records.path} record {record}"
        fields = parse_example(records.read(record), where)
        fps = BRIDGE_FPS if "bridge" in self._name.lower() else None
        return _episode(fields, self.ids[index], where, fps)


def _episode(fields: Mapping[str, Values], name: str, where: str, fps: float | None) -> Episode:
    videos, notes = _cameras(fields, where)
    frames = len(next(iter(videos.values())))
    actions, seen = _rows(fields, "steps/action", "actions", frames, where)
    notes += seen
    state, seen = _rows(fields, _OBSERVATION + "state", "states", frames, where)
    notes += seen
    instructions = distinct_texts(
        [text for key in _INSTRUCTIONS for text in _texts(fields.get(key, []), key, where)]
    )
    if not instructions:
        notes.append("no instruction, or only blanks")
    last = fields.get("steps/is_last")
    if isinstance(last, np.ndarray) and last.size and not last.any():
        notes.append("no step is marked as the last: the episode was cut before its end")
    if fps is None:
        notes.append("RLDS does not say at how many frames a second it was recorded")
    origin = _texts(fields.get("episode_metadata/file_path", []), "file_path", where)
    return Episode(
        id=name,
        videos=videos,
        actions=actions,
        state=state,
        instruction=instructions[0] if instructions else None,
        instructions=instructions,
        fps=fps,
        source=", from ".join([where, *origin]),
        notes=tuple(notes),
    )


def _cameras(
    fields: Mapping[str, Values], where: str
) -> tuple[dict[str, EncodedFrames], list[str]]:
    """Find the cameras that saw something, and say which did not."""
    cameras: dict[str, EncodedFrames] = {}
    notes = []
    for key in sorted(fields, key=lambda key: natural_key(Path(key))):
        images = fields[key]
        if not key.startswith(_OBSERVATION) or not isinstance(images, list) or not images:
            continue
        camera = key.removeprefix(_OBSERVATION)
        if not any(images) and "image" in camera:
            notes.append(f"camera {camera} is empty and was left out")
        elif _is_image(images[0]):
            frames = EncodedFrames(images, f"camera {camera} of {where}")
            if _is_black(images, frames):
                notes.append(f"camera {camera} is black and was left out")
            else:
                cameras[camera] = frames
        elif "image" in camera:
            notes.append(f"camera {camera} holds neither JPEG nor PNG and was left out")
    if not cameras:
        raise DataFormatError(
            f"{where} has no camera with JPEG or PNG frames below {_OBSERVATION} "
            f"({'; '.join(notes) or 'its fields are ' + (', '.join(fields) or 'none')}); expected "
            "an RLDS episode with images"
        )
    return cameras, notes


def _is_image(encoded: memoryview) -> bool:
    head = bytes(encoded[:26])
    # Bytes 24 and 25 of a PNG are bits a channel and kind of colour: (16, grey) is depth.
    return head.startswith(_JPEG) or (head.startswith(_PNG) and head[24:26] != b"\x10\x00")


def _is_black(images: Sequence[memoryview], frames: EncodedFrames) -> bool:
    # A camera that isn't there is filled up with one image, so only the first need be decoded.
    first = bytes(images[0])
    return all(bytes(image) == first for image in images) and not frames[0].any()


def _rows(
    fields: Mapping[str, Values], key: str, name: str, frames: int, where: str
) -> tuple[FloatArray | None, list[str]]:
    values = fields.get(key)
    if not isinstance(values, np.ndarray) or not values.size:
        return None, [f"no {name}"]
    if values.size % frames:
        raise DataFormatError(
            f"{where} has {values.size} numbers in {key} for {frames} frames; expected a multiple: "
            "the record is damaged, copy the file again"
        )
    return fit_rows(values.astype(np.float32).reshape(frames, -1), frames, name, where, still=True)


def _texts(values: Values, key: str, where: str) -> Iterator[str]:
    for value in values if isinstance(values, list) else []:
        try:
            yield str(value, "utf-8")
        except UnicodeDecodeError as error:
            raise DataFormatError(
                f"{where} has a text in {key} that is not UTF-8 ({error}): export it again"
            ) from error


def _shards(folder: Path) -> tuple[list[_Shard], str, tuple[str, ...]]:
    """Find the shards that a data set's description names; return its name and notes too."""
    file = folder / _INFO
    info = read_json(file)
    name, splits = info.get("name"), info.get("splits")
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise DataFormatError(
            f"{file} says that the data are {info['fileFormat']!r}; expected 'tfrecord': convert "
            "them with tfds convert_format"
        )
    if not isinstance(name, str) or not isinstance(splits, list):
        raise DataFormatError(f"{file} lacks 'name' or 'splits'; expected a TFDS description")
    shards: list[_Shard] = []
    notes = []
    for split in splits:
        found = _split_shards(folder, name, split, file)
        if not found:
            notes.append(f"split {split['name']} is named in {_INFO}, but none of it is here")
        shards += found
    if not shards:
        raise DataFormatError(
            f"{folder} holds none of the shards that {_INFO} names "
            f"({'; '.join(notes) or 'it names none'}); copy the .tfrecord files beside it"
        )
    return shards, name, tuple(notes)


def _split_shards(folder: Path, name: str, split: Any, file: Path) -> list[_Shard]:
    """Find the shards of one split: all of them, or none where it was left out of the copy."""
    if not isinstance(split, dict) or not isinstance(split.get("name"), str):
        raise DataFormatError(f"{file} has the split {split!r}; expected an object with a name")
    counts = _counts(split, file)
    template = split.get("filepathTemplate") or _DEFAULT_TEMPLATE
    paths = []
    for shard in range(len(counts)):
        file_name = _fill(str(template), name, split["name"], shard, len(counts))
        paths.append(inside(folder, file_name, str(file)))
    missing = [path for path in paths if not path.is_file()]
    if len(missing) == len(paths):
        return []
    if missing:
        raise TruncatedFileError(
            f"{folder} lacks {len(missing)} of the {len(paths)} shards of split "
            f"'{split['name']}' that {_INFO} names, {missing[0].name} first; copy them too"
        )
    for path, count in zip(paths, counts, strict=True):
        if count * SMALLEST_RECORD > path.stat().st_size:
            raise TruncatedFileError(
                f"{path} has {path.stat().st_size} bytes, too few for the {count} episodes that "
                f"{_INFO} names; copy it again from its source"
            )
    return [_Shard(RecordFile(path), count) for path, count in zip(paths, counts, strict=True)]


def _counts(split: Mapping[str, Any], file: Path) -> list[int]:
    """How many records each shard of a split has; JSON written by protobuf has them as texts."""
    counts = split.get("shardLengths")
    if not isinstance(counts, list) or not all(
        re.fullmatch("[0-9]{1,18}", str(count)) for count in counts
    ):
        raise DataFormatError(
            f"{file} has the shardLengths {counts!r} in split '{split['name']}'; expected a list "
            "of whole numbers"
        )
    return [int(count) for count in counts]


def _fill(template: str, name: str, split: str, shard: int, shards: int) -> str:
    values = {
        "DATASET": name,
        "SPLIT": split,
        "FILEFORMAT": "tfrecord",
        "SHARD_X_OF_Y": f"{shard:05d}-of-{shards:05d}",
        "SHARD_INDEX": f"{shard:05d}",
        "NUM_SHARDS": f"{shards:05d}",
    }
    for key, value in values.items():
        template = template.replace(f"{{{key}}}", value)
    return template


def _version_folders(path: Path) -> list[Path]:
    """Find data sets in a folder: itself, its versions, or the versions of what is in it."""
    for pattern in (_INFO, f"*/{_INFO}", f"*/*/{_INFO}"):
        if found := sorted(path.glob(pattern)):
            return [file.parent for file in found]
    return []


def _version_folder(path: Path) -> Path:
    found = _version_folders(path)
    if len(found) != 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in found) or "none"
        raise DataFormatError(
            f"{path} holds {len(found)} RLDS data sets ({names}); expected the folder of one, with "
            f"{_INFO} in it"
        )
    return found[0]


def _matches(path: Path) -> bool:
    if path.is_file():
        return ".tfrecord" in path.name
    return bool(_version_folders(path))


FORMAT = Format(
    layout="a TFDS folder with dataset_info.json and .tfrecord shards, or one .tfrecord file",
    matches=_matches,
    open=RLDSRecording,
)
