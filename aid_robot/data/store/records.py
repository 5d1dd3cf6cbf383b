"""What is known of each episode beside its arrays, as JSON text in a zarr array of strings."""

from __future__ import annotations

import json
import math
import struct
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from aid_robot.data.episode import Episode, Outcome
from aid_robot.data.store.codecs import CRC32C, seal, unseal
from aid_robot.data.store.layout import array_json, checked_key
from aid_robot.data.store.objects import Objects
from aid_robot.errors import StoreError

KEY = "meta/episodes"
# Episodes whose records lie in one object.
CHUNK = 256
OUTCOMES = ("demo", "success", "failure", None)
# Parsed records, and chunks of unparsed ones, that are kept.
KEPT = 4096
KEPT_CHUNKS = 64


@dataclass(frozen=True)
class EpisodeRecord:
    """An episode without its arrays."""

    id: str
    # Frames.
    length: int
    # Every wording, the first is the default.
    instructions: tuple[str, ...] = ()
    outcome: Outcome | None = None
    # Frames a second of the world; None where unknown.
    fps: float | None = None
    source: str = ""
    scene: str = ""
    # The default one first.
    cameras: tuple[str, ...] = ()
    # The other arrays that the episode has, such as "action" and "state".
    keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def instruction(self) -> str | None:
        """The first wording, None where there is none."""
        return self.instructions[0] if self.instructions else None

    @classmethod
    def of(cls, episode: Episode, length: int) -> EpisodeRecord:
        """Take from an episode what isn't an array."""
        first = () if episode.instruction is None else (episode.instruction,)
        texts = dict.fromkeys((*first, *episode.instructions))
        keys = [
            key
            for key, rows in (("action", episode.actions), ("state", episode.state))
            if rows is not None
        ]
        return cls(
            id=episode.id,
            length=length,
            instructions=tuple(texts),
            outcome=episode.outcome,
            fps=episode.fps,
            source=episode.source,
            scene=episode.scene,
            cameras=tuple(episode.videos),
            keys=(*keys, *episode.arrays),
            notes=tuple(episode.notes),
            info=dict(episode.info),
        )

    def to_text(self) -> str:
        """Write as JSON, without the length; StoreError where a field can't be kept."""
        content = {name: getattr(self, name) for name in RECORD_FIELDS}
        # What can't be read back must not be committed.
        EpisodeRecord.from_content(content, self.length, f"episode '{self.id}'")
        try:
            text = json.dumps(content, ensure_ascii=False, allow_nan=False)
            text.encode()
        except UnicodeEncodeError:
            text = json.dumps(content, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise StoreError(
                f"episode '{self.id}' can't be kept as JSON ({error}); expected `info` of texts, "
                "finite numbers, booleans, None, lists and dicts"
            ) from error
        return text

    @classmethod
    def from_text(cls, text: str, length: int, where: str) -> EpisodeRecord:
        """Read JSON; StoreError where it is no record."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"the record of {where} is no JSON ({error}); the store is damaged: restore it "
                "from a copy"
            ) from error
        return cls.from_content(content, length, where)

    @classmethod
    def from_content(cls, content: Any, length: int, where: str) -> EpisodeRecord:
        """Read what JSON held; StoreError where it is no record."""
        if not isinstance(content, dict) or not isinstance(content.get("id"), str):
            raise StoreError(
                f"the record of {where} has no id; expected a JSON object with the fields "
                f"{', '.join(RECORD_FIELDS)}: the store is damaged, restore it from a copy"
            )
        texts = {}
        for name in ("instructions", "cameras", "keys", "notes"):
            values = content.get(name, [])
            if not isinstance(values, (list, tuple)) or not all(isinstance(v, str) for v in values):
                raise _bad_field(where, name, values, "a list of texts")
            texts[name] = tuple(values)
        for key in (*texts["cameras"], *texts["keys"]):
            checked_key(key)
        fps = content.get("fps")
        number = isinstance(fps, (int, float)) and not isinstance(fps, bool)
        if fps is not None and not (number and math.isfinite(fps) and fps > 0):
            raise _bad_field(where, "fps", fps, "a positive number or null")
        outcome = content.get("outcome")
        if outcome not in OUTCOMES:
            raise _bad_field(where, "outcome", outcome, "demo, success, failure or null")
        for name in ("source", "scene"):
            if not isinstance(content.get(name, ""), str):
                raise _bad_field(where, name, content[name], "a text")
        info = content.get("info", {})
        if not isinstance(info, Mapping):
            raise _bad_field(where, "info", info, "an object")
        return cls(
            id=content["id"],
            length=length,
            instructions=texts["instructions"],
            outcome=outcome,
            fps=None if fps is None else float(fps),
            source=content.get("source", ""),
            scene=content.get("scene", ""),
            cameras=texts["cameras"],
            keys=texts["keys"],
            notes=texts["notes"],
            info=info,
        )

    def changed(self, fields: Mapping[str, Any]) -> EpisodeRecord:
        """Give some fields other values."""
        unknown = set(fields) - set(ANNOTATABLE)
        if unknown:
            raise StoreError(
                f"'{sorted(unknown)[0]}' can't be annotated; expected one of "
                f"{', '.join(ANNOTATABLE)}"
            )
        values = dict(fields)
        for name in ("instructions", "notes"):
            if name in values and (isinstance(values[name], str)):
                values[name] = [values[name]]
            if name in values:
                values[name] = tuple(values[name])
        if "info" in values:
            values["info"] = {**self.info, **values["info"]}
        return replace(self, **values)


RECORD_FIELDS = (
    "id", "instructions", "outcome", "fps", "source", "scene", "cameras", "keys", "notes", "info",
)  # fmt: skip
ANNOTATABLE = ("instructions", "outcome", "fps", "source", "scene", "notes", "info")


def _bad_field(where: str, name: str, value: object, expected: str) -> StoreError:
    return StoreError(f"the record of {where} has {name} {str(value)[:80]!r}; expected {expected}")


def records_json(count: int) -> dict[str, Any]:
    """Give the metadata of the array of records."""
    codecs = [{"name": "vlen-utf8", "configuration": {}}, CRC32C]
    return array_json((count,), (CHUNK,), "string", "", codecs, {})


def encode_texts(texts: Sequence[str]) -> bytes:
    """Lay out one chunk of texts as zarr's `vlen-utf8` does."""
    parts = [struct.pack("<I", CHUNK)]
    for place in range(CHUNK):
        data = texts[place].encode() if place < len(texts) else b""
        parts += [struct.pack("<I", len(data)), data]
    return seal(b"".join(parts))


def decode_texts(data: bytes) -> list[str]:
    """Read one chunk of texts; StoreError where it isn't one."""
    view = unseal(data)
    texts, at = [], 4
    try:
        (count,) = struct.unpack_from("<I", view)
        if count != CHUNK:
            raise StoreError(f"it says that it holds {count} records instead of {CHUNK}")
        for _ in range(count):
            (length,) = struct.unpack_from("<I", view, at)
            if at + 4 + length > len(view):
                raise StoreError(f"a record of {length} bytes leads out of it")
            texts.append(str(view[at + 4 : at + 4 + length], "utf-8"))
            at += 4 + length
    except (struct.error, UnicodeDecodeError) as error:
        raise StoreError(f"it holds no texts ({error})") from error
    return texts


def chunk_name(chunk: int) -> str:
    """Name the object of a chunk of records."""
    return f"{KEY}/c/{chunk}"


def read_texts(objects: Objects, chunk: int) -> list[str]:
    """Read one chunk of records as JSON texts."""
    name = chunk_name(chunk)
    data = objects.get(name)
    if data is None:
        raise StoreError(
            f"{objects.url}: {name} is missing; the store is damaged: restore it from a copy"
        )
    try:
        return decode_texts(data)
    except StoreError as error:
        raise StoreError(
            f"{objects.url}: {name} is damaged: {error}; restore the store from a copy"
        ) from error


class StoredTexts:
    """The JSON texts of all episodes, read chunk by chunk as they are asked for."""

    def __init__(self, objects: Objects, check: Callable[[], None]) -> None:
        # `check` raises where the objects are no longer those of the same store.
        self._objects, self._check = objects, check
        self._chunks: dict[int, list[str]] = {}
        self._cameras: dict[int, list[tuple[str, ...]]] = {}

    def __getitem__(self, episode: int) -> str:
        chunk, place = divmod(episode, CHUNK)
        return self._read(chunk)[place]

    def cameras(self, episode: int) -> tuple[str, ...]:
        """Name an episode's cameras; empty where its record is damaged."""
        chunk, place = divmod(episode, CHUNK)
        cameras = self._cameras.get(chunk)
        if cameras is None:
            # Of the whole chunk at once: these few words stay, the texts don't.
            cameras = self._cameras[chunk] = [_cameras_of(text) for text in self._read(chunk)]
        return cameras[place]

    def forget(self, episode: int) -> None:
        """Read the episode's record anew when it is asked for."""
        self._chunks.pop(episode // CHUNK, None)
        self._cameras.pop(episode // CHUNK, None)

    def _read(self, chunk: int) -> list[str]:
        texts = self._chunks.get(chunk)
        if texts is None:
            try:
                texts = read_texts(self._objects, chunk)
            finally:
                # Sooner than that something is missing, say that it is another store.
                self._check()
            self._chunks[chunk] = texts
            while len(self._chunks) > KEPT_CHUNKS:
                self._chunks.pop(next(iter(self._chunks)), None)
        return texts


def _cameras_of(text: str) -> tuple[str, ...]:
    try:
        return tuple(map(sys.intern, json.loads(text)["cameras"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return ()


class Records(Sequence[EpisodeRecord]):
    """The records of a snapshot's episodes, each parsed when it is asked for."""

    def __init__(self, texts: StoredTexts, live: Sequence[int], lengths: Sequence[int]) -> None:
        self._texts, self._live, self._lengths = texts, live, lengths
        self._kept: OrderedDict[int, EpisodeRecord] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._live)

    @overload
    def __getitem__(self, index: int) -> EpisodeRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[EpisodeRecord]: ...
    def __getitem__(self, index: int | slice) -> EpisodeRecord | list[EpisodeRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} was asked for, but there are {len(self)}")
        index %= len(self)
        with self._lock:
            record = self._kept.get(index)
        if record is None:
            text = self._texts[self._live[index]]
            record = EpisodeRecord.from_text(text, self._lengths[index], f"episode {index}")
            with self._lock:
                self._kept[index] = record
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return record

    def __iter__(self) -> Iterator[EpisodeRecord]:
        for index in range(len(self)):
            yield self[index]

    def cameras(self, index: int) -> tuple[str, ...]:
        """Name an episode's cameras without reading the rest of its record."""
        # Where there are none, the record says what is wrong.
        return self._texts.cameras(self._live[index]) or self[index].cameras

    def ids(self) -> list[str]:
        """Read the ids alone, which takes a fraction of the time."""
        return [self._id(index) for index in range(len(self))]

    def _id(self, index: int) -> str:
        text = self._texts[self._live[index]]
        # Our records begin with the id; others' are parsed whole.
        if text.startswith(ID_FIRST):
            try:
                name, _ = json.decoder.scanstring(text, len(ID_FIRST))  # type: ignore[attr-defined]
            except ValueError:
                return self[index].id
            return str(name)
        return self[index].id


ID_FIRST = '{"id": "'
