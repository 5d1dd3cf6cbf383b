"""Arrays of zarr version 2 are read as the zarr package reads them; those that lie are refused."""

from __future__ import annotations

import contextlib
import pickle
import sys
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aid_robot.data import open_recording
from aid_robot.data.ingest.store_files import FolderFiles
from aid_robot.data.ingest.zarr_v2 import ZarrV2Array
from aid_robot.errors import DataFormatError, MissingDependencyError, TruncatedFileError
from tests.data.memory import peak_below
from tests.data.numbered_frames import number_of
from tests.data.replay_writer import FRAMES, edit, write

COMPRESSORS = [
    None,
    numcodecs.Blosc("lz4", 5, numcodecs.Blosc.NOSHUFFLE),
    numcodecs.Blosc("zstd", 5, numcodecs.Blosc.BITSHUFFLE),
    numcodecs.Zstd(),
    numcodecs.LZ4(),
    numcodecs.Zlib(),
    numcodecs.GZip(),
    numcodecs.BZ2(),
    numcodecs.LZMA(),
]


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=str)
def test_what_numcodecs_compresses_is_read(tmp_path: Path, compressor: Any) -> None:
    folder = write(tmp_path, compressors=compressor, chunk=4)
    assert np.array_equal(open_recording(folder)[1].frames[:], FRAMES[5:8])


JPEG_XL = {"id": "imagecodecs_jpegxl", "level": 99, "lossless": False}


def write_jpeg_xl(root: Path) -> Path:
    """Write a replay buffer whose images are JPEG XL, as UMI's codec makes them."""
    imagecodecs = pytest.importorskip("imagecodecs")
    folder = write(root)
    for number, frame in enumerate(FRAMES):
        encoded = imagecodecs.jpegxl_encode(frame, lossless=True)
        (folder / "data/img" / f"{number}.0.0.0").write_bytes(encoded)
    return edit(folder, compressor=JPEG_XL)


def test_jpeg_xl_is_read(tmp_path: Path) -> None:
    folder = write_jpeg_xl(tmp_path)
    assert np.array_equal(open_recording(folder)[1].frames[:], FRAMES[5:8])


def test_jpeg_xl_without_its_package_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = edit(write(tmp_path), compressor=JPEG_XL)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingDependencyError, match=r"aid-robot\[imagecodecs\]"):
        open_recording(folder)


def test_image_of_another_size_than_declared_is_refused(tmp_path: Path) -> None:
    folder = write_jpeg_xl(tmp_path)
    imagecodecs = pytest.importorskip("imagecodecs")
    large = imagecodecs.jpegxl_encode(np.zeros((200, 200, 3), np.uint8))
    (folder / "data/img/2.0.0.0").write_bytes(large)
    with pytest.raises(TruncatedFileError, match=r"data/img/2\.0\.0\.0"):
        open_recording(folder)[0].frames[:]


@pytest.mark.parametrize("compressor", COMPRESSORS[1:], ids=str)
def test_bomb_is_refused_before_it_goes_off(tmp_path: Path, compressor: Any) -> None:
    folder = write(tmp_path, compressors=compressor)
    recording = open_recording(folder)
    (folder / "data/img/1.0.0.0").write_bytes(compressor.encode(bytes(2**24)))
    # LZMA's own window takes 8 MB.
    with peak_below(12_000_000), pytest.raises(TruncatedFileError, match="data/img/1"):
        recording[0].frames[:]


@pytest.mark.parametrize("compressor", COMPRESSORS[1:], ids=str)
def test_chunk_of_fewer_rows_is_refused(tmp_path: Path, compressor: Any) -> None:
    """Else the rest of the chunk would be whatever memory held before."""
    folder = write(tmp_path, compressors=compressor, chunk=4)
    (folder / "data/img/0.0.0.0").write_bytes(compressor.encode(np.ascontiguousarray(FRAMES[:2])))
    with pytest.raises(TruncatedFileError, match="data/img/0"):
        open_recording(folder)[0].frames[0]


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=str)
def test_cut_off_chunk_is_refused(tmp_path: Path, compressor: Any) -> None:
    folder = write(tmp_path, compressors=compressor)
    chunk = folder / "data/img/1.0.0.0"
    whole = chunk.read_bytes()
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 5):
        chunk.write_bytes(whole[:length])
        with pytest.raises(TruncatedFileError, match=r"data/img/1\.0\.0\.0"):
            open_recording(folder)[0].frames[1]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("data/img", {"shape": [10**12, 48, 64, 3]}, None),
        ("data/img", {"shape": [7, 48, 64, 3]}, "7 rows, but the episodes end at row 12"),
        ("data/img", {"shape": [10**30, 48, 64, 3]}, "shape of"),
        ("data/img", {"shape": [12, 10**6, 10**6, 3]}, "more than"),
        ("data/img", {"shape": [12, 10**6, 64, 3]}, "more than"),
        ("data/img", {"chunks": [10**9, 48, 64, 3]}, "more than"),
        ("data/img", {"chunks": [0, 48, 64, 3]}, "can't be read"),
        ("data/img", {"chunks": [1, 48, 64]}, "can't be read"),
        ("data/img", {"chunks": None}, "can't be read"),
        ("data/img", {"dtype": "|O"}, "no images"),
        ("data/img", {"dtype": "<i4,<f8"}, "can't be read"),
        ("data/img", {"dtype": [["a", "|O"]]}, "can't be read"),
        ("data/img", {"filters": [{"id": "pickle"}]}, "filters"),
        ("data/img", {"compressor": {"id": "pickle"}}, "compressed by 'pickle'"),
        ("data/img", {"compressor": {"id": "imagecodecs_numpy"}}, "compressed by"),
        ("data/img", {"compressor": "blosc"}, "can't be read"),
        ("data/img", {"order": "K"}, "can't be read"),
        ("data/img", {"dimension_separator": "/../"}, "can't be read"),
        ("data/img", {"fill_value": "x"}, "can't be read"),
        ("data/img", {"zarr_format": 3}, "version 3"),
        ("meta/episode_ends", {"shape": [10**12], "chunks": [10**7]}, "lacks meta/episode_ends/1"),
        ("meta/episode_ends", {"shape": [10**12], "chunks": [10**12]}, "more than"),
        ("meta/episode_ends", {"shape": [0]}, "at least one"),
        ("meta/episode_ends", {"dtype": "<f8"}, "whole numbers"),
    ],
)
def test_header_that_lies_is_refused(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str | None
) -> None:
    folder = edit(write(tmp_path), name, **changes)
    with peak_below(10_000_000):
        if message is None:
            # More rows than episodes are usual; the rows that aren't there are never asked for.
            assert [number_of(frame) for frame in open_recording(folder)[0].frames] == [
                0,
                1,
                2,
                3,
                4,
            ]
        else:
            with pytest.raises(DataFormatError, match=message):
                open_recording(folder)


def test_pickle_among_the_codecs_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "run"

    class Calls:
        def __reduce__(self) -> tuple[Any, ...]:
            return marker.mkdir, ()

    folder = edit(write(tmp_path), compressor={"id": "pickle"})
    for chunk in (folder / "data/img").glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Calls()))
    with pytest.raises(DataFormatError, match="pickle"):
        open_recording(folder)[0].frames[:]
    assert not marker.exists()


@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_rows_are_those_that_zarr_reads(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = st.sampled_from(["u1", "<i4", ">i2", "<f4", "<f8", "b1"])
    values = data.draw(kind.flatmap(lambda k: hnp.arrays(k, hnp.array_shapes(max_dims=4))))
    chunks = tuple(data.draw(st.integers(1, size + 1)) for size in values.shape)
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    folder = tmp_path_factory.mktemp("zarr")
    array = zarr.create_array(
        folder / "a", shape=values.shape, dtype=values.dtype, chunks=chunks, zarr_format=2,
        order=data.draw(st.sampled_from("CF")), fill_value=data.draw(st.sampled_from([0, 1])),
        compressors=data.draw(st.sampled_from(COMPRESSORS)),
        chunk_key_encoding={"name": "v2", "separator": data.draw(st.sampled_from("./"))},
    )  # fmt: skip
    array[:] = values
    ours = ZarrV2Array(FolderFiles(folder), "a")
    assert len(ours) == len(values)
    read = ours.rows(start, stop)
    assert read.dtype == values.dtype
    assert read.tobytes() == values[start:stop].tobytes()


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
FIELDS = ["shape", "chunks", "dtype", "order", "compressor", "filters", "fill_value"]


@given(
    name=st.sampled_from(["data/img", "data/action", "meta/episode_ends"]),
    changes=st.dictionaries(st.sampled_from(FIELDS), json_values, min_size=1),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_header_is_read_or_refused(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    folder = tmp_path / "buffer.zarr"
    folder = folder if folder.exists() else write(tmp_path)
    file = folder / name / ".zarray"
    whole = file.read_text()
    try:
        edit(folder, name, **changes)
        with contextlib.suppress(DataFormatError):
            open_recording(folder)[0].frames[:]
    finally:
        file.write_text(whole)
