"""Damaged stores, and such as are made to do harm, are refused with a sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aid_robot.data.store import EpisodeStore
from aid_robot.data.store.codecs import JpegCodec, PngCodec, RowsCodec, seal
from aid_robot.data.store.records import decode_texts, encode_texts
from aid_robot.errors import AIDRobotError, StoreError
from tests.data.store.episodes import episode_of, frames_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with EpisodeStore.create(tmp_path / "s.zarr", codec="png", shard_frames=8) as store:
        store.extend(episode_of(seed, 5, arrays=("joints",)) for seed in range(4))
    return tmp_path / "s.zarr"


def use(path: Path) -> None:
    """Read all that there is."""
    store = EpisodeStore.open(path)
    for episode in store:
        for frames in episode.videos.values():
            frames[:]
    store.info()


def edited(path: Path, name: str, edit: Callable[[dict[str, Any]], object]) -> Path:
    file = path / name / "zarr.json" if name else path / "zarr.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return path


def sharding(metadata: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = metadata["codecs"][0]["configuration"]
    return found


def set_chunk(metadata: dict[str, Any], chunk: list[int], shard: list[int]) -> None:
    sharding(metadata)["chunk_shape"] = chunk
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = shard


HUGE = 2**40
EDITS: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("data/image_0", lambda m: m.update(shape=[20, HUGE, HUGE, 3]), "data/image_0"),
    ("data/image_0", lambda m: m.update(shape=[3, 16, 24, 3]), "has 3 rows for 20"),
    ("data/image_0", lambda m: m.update(shape="20"), "has the shape '20'"),
    ("data/image_0", lambda m: m.update(shape=[-5, 16, 24, 3]), "has the shape"),
    ("data/image_0", lambda m: m.update(shape=[True, 16, 24, 3]), "has the shape"),
    (
        "data/image_0",
        lambda m: (
            m.update(shape=[20, HUGE, HUGE, 3]),
            set_chunk(m, [1, HUGE, HUGE, 3], [8, HUGE, HUGE, 3]),
        ),
        "more than any recording has",
    ),
    (
        "data/image_0",
        lambda m: set_chunk(m, [1, 16, 24, 3], [HUGE, 16, 24, 3]),
        "more than any recording has",
    ),
    ("data/joints", lambda m: set_chunk(m, [HUGE, 3], [HUGE, 3]), "more than any recording has"),
    ("data/joints", lambda m: set_chunk(m, [0, 3], [16384, 3]), "has the shape"),
    ("data/joints", lambda m: m.update(data_type="object"), "not as this package writes it"),
    ("data/joints", lambda m: m.update(codecs=[{"name": "pickle"}]), "not as this package"),
    ("meta/episode_ends", lambda m: m.update(shape=[HUGE]), "is missing or of a wrong size"),
    ("meta/episode_ends", lambda m: m.update(shape=[7]), "doesn't increase"),
    ("meta/episode_ends", lambda m: m.update(shape=[]), "has the shape"),
    ("meta/episode_ends", lambda m: m.update(attributes=3), "has no attributes"),
    (
        "meta/episode_ends",
        lambda m: m["attributes"].update(keys=["../../secrets"]),
        "can't be the name",
    ),
    ("meta/episode_ends", lambda m: m["attributes"].update(dropped=[99]), "names dropped episodes"),
    (
        "meta/episode_ends",
        lambda m: m["attributes"].update(keys=["ghost"]),
        "expected one of ghost",
    ),
    ("", lambda m: m["attributes"]["aid_robot"].update(version=99), "newer aid_robot"),
    ("", lambda m: m["attributes"].update(aid_robot="x"), "has the settings x"),
]


@pytest.mark.parametrize(("name", "edit", "match"), EDITS)
def test_metadata_that_cannot_be(
    path: Path, name: str, edit: Callable[[dict[str, Any]], object], match: str
) -> None:
    with pytest.raises(StoreError, match=match):
        use(edited(path, name, edit))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, "\xff"])
@pytest.mark.parametrize("name", ["", "meta/episode_ends", "data/image_0"])
def test_metadata_that_is_no_json(path: Path, name: str, text: str) -> None:
    (path / name / "zarr.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError):
        use(path)


def rewritten_index(path: Path, offset: int, length: int, chunk: int = 2) -> None:
    """Let the index of the first shard lead elsewhere, with a right checksum."""
    file = path / "data" / "image_0" / "c.0.0.0.0"
    data = bytearray(file.read_bytes())
    size = 16 * 8 + 4
    index = np.frombuffer(bytes(data[-size:-4]), "<u8").reshape(8, 2).copy()
    index[chunk] = offset, length
    raw = index.tobytes()
    file.write_bytes(data[:-size] + raw + struct.pack("<I", google_crc32c.value(raw)))


@pytest.mark.parametrize(
    ("offset", "length"),
    [(2**40, 10), (0, 2**40), (2**63, 1), (2**64 - 2, 2**64 - 2), (0, 2**64 - 1), (10**6, 10)],
)
def test_an_index_that_leads_out_of_its_shard(path: Path, offset: int, length: int) -> None:
    rewritten_index(path, offset, length)
    with pytest.raises(StoreError, match="leads out of the object"):
        use(path)


def test_an_index_that_leads_to_another_place(path: Path) -> None:
    rewritten_index(path, 3, 50)
    with pytest.raises(StoreError, match=r"row 2 of data/image_0 is damaged: .*checksum"):
        use(path)
    (problem,) = [p for p in EpisodeStore.open(path).verify(deep=True) if p.key == "image_0"]
    assert problem.episode == "e0"
    assert EpisodeStore.open(path)[1].frames[0].any()  # the others are whole


def test_a_frame_that_is_absent(path: Path) -> None:
    rewritten_index(path, 2**64 - 1, 2**64 - 1)
    with pytest.raises(StoreError, match="row 2 of data/image_0 is missing"):
        use(path)
    (problem,) = EpisodeStore.open(path).verify()
    assert (problem.episode, problem.key) == ("e0", "image_0")
    assert "1 of 5 pieces are missing" in problem.message
    assert str(problem) == f"episode 'e0' image_0: {problem.message}"


@pytest.mark.parametrize("cut", [0, 1, 60, 500])
def test_a_shard_that_is_cut_off(path: Path, cut: int) -> None:
    file = path / "data" / "image_0" / "c.1.0.0.0"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(StoreError, match=r"index of data/image_0/c\.1\.0\.0\.0"):
        use(path)


def test_missing_objects(path: Path) -> None:
    (path / "data" / "image_0" / "c.1.0.0.0").unlink()
    assert {problem.episode for problem in EpisodeStore.open(path).verify()} == {"e1", "e2", "e3"}
    (path / "meta" / "episodes" / "c" / "0").unlink()
    with pytest.raises(StoreError, match="meta/episodes/c/0 is missing"):
        EpisodeStore.open(path)[0]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("no json", "is no JSON"),
        ("[]", "has no id"),
        ('{"id": 3}', "has no id"),
        ('{"id": "a", "cameras": ["../x"]}', "can't be the name"),
        ('{"id": "a", "cameras": ["nope"]}', "has no 'nope'"),
        ('{"id": "a", "cameras": ["joints"]}', "no frames; expected one of the cameras image_0"),
        ('{"id": "a", "cameras": ["image_0"], "keys": "x"}', "keys 'x'; expected a list"),
        ('{"id": "a", "cameras": ["image_0"], "fps": -1}', "fps '-1'; expected a positive"),
        ('{"id": "a", "cameras": ["image_0"], "fps": 1e999}', "fps 'inf'"),
        ('{"id": "a", "cameras": ["image_0"], "outcome": "x"}', "outcome 'x'"),
        ('{"id": "a", "cameras": ["image_0"], "info": []}', "info"),
        ('{"id": "a", "cameras": ["image_0"], "source": 3}', "source '3'; expected a text"),
        ('{"id": "\\u12"}', "is no JSON"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_records_that_cannot_be(path: Path, text: str, match: str) -> None:
    texts = decode_texts((path / "meta" / "episodes" / "c" / "0").read_bytes())
    texts[1] = text
    (path / "meta" / "episodes" / "c" / "0").write_bytes(encode_texts(texts))
    with pytest.raises(StoreError, match=match):
        use(path)
    assert any(match in p.message or p.episode == "a" for p in EpisodeStore.open(path).verify())


def test_an_episode_twice_is_told(path: Path) -> None:
    texts = decode_texts((path / "meta" / "episodes" / "c" / "0").read_bytes())
    texts[1] = texts[0]
    (path / "meta" / "episodes" / "c" / "0").write_bytes(encode_texts(texts))
    (problem,) = EpisodeStore.open(path).verify()
    assert "its id is that of an episode before" in str(problem)


@pytest.mark.parametrize("codec", [PngCodec(), JpegCodec()])
@pytest.mark.parametrize("size", [(60_000, 60_000), (8, 9), (16, 12)])
def test_a_frame_of_another_size_than_its_array(
    codec: PngCodec | JpegCodec, size: tuple[int, int]
) -> None:
    if size[0] > 1000:
        data = bytearray(codec.encode_content(frames_of(1, 1)))
        place = data.index(b"\xff\xc0") + 5 if isinstance(codec, JpegCodec) else 16
        packed = struct.pack(">HH" if isinstance(codec, JpegCodec) else ">II", *size)
        data[place : place + len(packed)] = packed
    else:
        data = bytearray(codec.encode_content(frames_of(1, 1, size)))
    with pytest.raises(StoreError, match="holds no chunk of shape"):
        codec.decode(seal(bytes(data)), np.empty((1, 16, 24, 3), np.uint8))


def test_a_bomb_of_zeros(path: Path) -> None:
    from numcodecs.zstd import Zstd

    bomb = bytes(Zstd(3).encode(bytes(2**27)))
    assert len(bomb) < 20_000
    with pytest.raises(StoreError, match="destination buffer too small"):
        RowsCodec().decode(seal(bomb), np.empty((4, 3), np.int32))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_damage_passes_for_data(path: Path, data: st.DataObject) -> None:
    """Whatever byte of whatever object changes: right data, or an error of ours."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = data.draw(st.sampled_from(files))
    content = file.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        file.write_bytes(bytes(changed))
        store = EpisodeStore.open(path)
        for seed, episode in enumerate(store):
            expected = episode_of(seed, 5, arrays=("joints",))
            if file.suffix == ".json":
                episode.frames[:]  # a name or an attribute may be another
                continue
            assert episode.id == f"e{seed}"
            np.testing.assert_array_equal(episode.frames[:], expected.frames[:])
            np.testing.assert_array_equal(episode.arrays["joints"], expected.arrays["joints"])
    except AIDRobotError:
        pass
    finally:
        file.write_bytes(content)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_for_texts(data: bytes) -> None:
    for content in (data, seal(data), seal(struct.pack("<I", 256) + data)):
        with pytest.raises(StoreError):
            decode_texts(content)
