"""Pickles of data open as they are; what is not data is refused before anything of it happens."""

from __future__ import annotations

import contextlib
import os
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aid_robot.data.pickles import read_pickle, unpickle
from aid_robot.errors import DataFormatError, TruncatedFileError
from tests.data.memory import peak_below


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, and of equal types where types matter."""
    if isinstance(one, np.ndarray):
        if not isinstance(other, np.ndarray) or one.shape != other.shape:
            return False
        if one.dtype.hasobject:
            return all(same(*pair) for pair in zip(one.flat, other.flat, strict=True))
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, (bytes, bytearray)):
        return bytes(one) == bytes(other)
    if isinstance(one, np.generic):
        return type(one) is type(other) and one.tobytes() == other.tobytes()
    return type(one) is type(other) and one == other


kinds = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
    hnp.byte_string_dtypes(),
    hnp.unicode_string_dtypes(),
)
arrays = kinds.flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_side=4, min_side=0))
)
scalars = hnp.arrays(kinds, 1).map(lambda array: array[0])
keys = st.none() | st.booleans() | st.integers() | st.text() | st.binary(max_size=200)
values = st.recursive(
    keys | st.floats(allow_nan=False) | st.binary(min_size=250, max_size=300) | arrays | scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(keys, inner)
        | st.sets(keys)
        | st.frozensets(keys)
    ),
    max_leaves=8,
)


@given(value=values, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
@settings(deadline=None)
def test_data_open_as_they_are(value: Any, protocol: int) -> None:
    assert same(value, unpickle(pickle.dumps(value, protocol), "it"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_order_and_repeats_open(protocol: int) -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    objects = np.array([{"a": array}, [1, 2], None], object)
    value = [array, array, array.T, np.asfortranarray(array[0]), objects, OrderedDict(a=1)]
    opened = unpickle(pickle.dumps(value, protocol), "it")
    assert same(value[:5], opened[:5])
    assert opened[0] is opened[1]
    assert opened[5] == {"a": 1}


@pytest.mark.parametrize("core", ["core", "_core"])
def test_modules_of_numpy_1_and_2_are_known(core: str) -> None:
    written = pickle.dumps(np.arange(3), 2)
    named = written.replace(b"numpy._core.", f"numpy.{core}.".encode())
    assert same(np.arange(3), unpickle(named, "it"))


def test_file_is_mapped_and_its_arrays_are_views(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (50, 64, 64, 3), np.uint8)
    file = tmp_path / "frames.pkl"
    file.write_bytes(pickle.dumps({"frames": frames, "jpeg": bytes(300_000)}))
    with peak_below(100_000):
        opened = read_pickle(file)
    assert same(frames, opened["frames"])
    assert not opened["frames"].flags.writeable


class Calls:
    """Pickled as a call of something."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def named(module: str, name: str, *arguments: Any) -> bytes:
    """Pickle a call of something that need not be here, as protocol 0 writes it."""
    pushed = b"".join(pickle.dumps(argument, 0)[:-1] for argument in arguments)
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + pushed + b"tR."


def array_of(dtype: bytes, shape: bytes, content: bytes, structure: bytes = b"NNN") -> bytes:
    """Pickle an array by hand: a type's name, then pickled its shape, then bytes."""
    return (
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
        b"(K\x01" + shape + b"cnumpy\ndtype\n(U\x02" + dtype + b"\x89\x88tR"
        b"(K\x03U\x01<" + structure + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89B" + len(content).to_bytes(4, "little") + content + b"tb."
    )


def command(marker: Path) -> str:
    return f"touch {marker}"


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda marker: pickle.dumps(Calls(os.system, command(marker))),
    "within data": lambda marker: pickle.dumps([1, {"a": Calls(os.system, command(marker))}]),
    "mkdir": lambda marker: pickle.dumps(Calls(os.mkdir, str(marker)), 0),
    "eval": lambda marker: pickle.dumps(Calls(eval, f"open({str(marker)!r}, 'w')")),
    "exec": lambda marker: pickle.dumps(Calls(exec, f"open({str(marker)!r}, 'w')")),
    "open": lambda marker: pickle.dumps(Calls(open, str(marker), "w")),
    "getattr": lambda _: named("builtins", "getattr", "text", "upper"),
    "import": lambda _: named("importlib", "import_module", "this"),
    "dotted": lambda _: named("numpy", "core.multiarray.os.system", "true"),
    "numpy.load": lambda _: named("numpy", "load", "x.npy", None, True),
    "numpy runs text": lambda _: named("numpy.testing._private.utils", "runstring", "x=1", {}),
    "numpy reads files": lambda _: named("numpy.core.multiarray", "fromfile", "/etc/passwd"),
    "a class": lambda _: pickle.dumps(Path("x")),
    "object by class": lambda marker: b"(cos\nsystem\nS'" + command(marker).encode() + b"'\no.",
    "instance": lambda marker: b"(S'" + command(marker).encode() + b"'\nios\nsystem\n.",
    "new object": lambda _: b"\x80\x02cnumpy\nndarray\n)\x81.",
    "extension": lambda _: b"\x80\x02\x82\x01.",
    "persistent id": lambda _: b"Pfile\n.",
    "buffer": lambda _: b"\x80\x05\x97.",
    "state of a function": lambda _: b"\x80\x02cnumpy\nndarray\n}X\x01\x00\x00\x00a]sb.",
    "slots of a function": lambda _: b"\x80\x02cnumpy\nndarray\nN}X\x01\x00\x00\x00a]s\x86b.",
    "function alone": lambda _: b"\x80\x02cnumpy\nndarray\n.",
    "call of a text": lambda _: b"\x80\x02X\x01\x00\x00\x00a)R.",
    "append to a text": lambda _: b"\x80\x02X\x01\x00\x00\x00aNa.",
    "structured type": lambda _: pickle.dumps(np.zeros(2, [("a", "O"), ("b", "f4")])),
    "fields of a plain type": lambda _: array_of(b"u2", b"K\x01\x85", b"ab", b"U\x01a\x85NN"),
    "dates": lambda _: pickle.dumps(np.zeros(2, "M8[s]")),
    "masked": lambda _: pickle.dumps(np.ma.array([1])),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_data_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "run"
    written = HOSTILE[name](marker)
    with pytest.raises(DataFormatError, match=r"it .*expected a pickle of plain data"):
        unpickle(written, "it")
    assert not marker.exists()


def test_hostile_pickles_here_would_run(tmp_path: Path) -> None:
    """Else the tests above prove nothing."""
    for name in ("os.system", "within data", "eval", "exec", "open", "object by class", "instance"):
        marker = tmp_path / name.replace(" ", "_")
        with contextlib.suppress(Exception):
            pickle.loads(HOSTILE[name](marker))
        assert marker.exists(), name


def test_array_by_hand_is_one() -> None:
    assert same(
        np.arange(3, dtype="<u2"), unpickle(array_of(b"u2", b"K\x03\x85", b"\0\0\1\0\2\0"), "it")
    )


TERABYTES = b"\x8a\x06\x00\x00\x00\x00\x00\x01"  # 2**40


@pytest.mark.parametrize(
    "written",
    [
        array_of(b"u1", TERABYTES + b"\x85", b"abc"),
        array_of(b"u1", TERABYTES + TERABYTES + b"\x86", b""),
        array_of(b"u1", b"K\x00" + TERABYTES + b"\x86", b""),
        array_of(b"u1", b"J\xff\xff\xff\xffJ\xfd\xff\xff\xff\x86", b"abc"),
        array_of(b"u2", b"K\x03\x85", b"abc"),
        # Bytes where objects belong would be taken for their addresses.
        array_of(b"O8", b"K\x01\x85", b"\x41" * 8),
        b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b"abc.",
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"abc.",
        b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"abc.",
        b"\x80\x04T\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        b"cbuiltins\nbytearray\n" + TERABYTES + b"\x85R.",
        b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"]",
    ],
)
def test_size_beyond_the_file_allocates_nothing(written: bytes) -> None:
    with peak_below(1_000_000), pytest.raises(DataFormatError):
        unpickle(written, "it")


def test_far_place_in_the_memo_costs_nothing() -> None:
    """C's unpickler makes a table of 32 GB of these ten bytes."""
    with peak_below(100_000):
        assert unpickle(b"\x80\x02]r\xff\xff\xff\x7f.", "it") == []


@pytest.mark.parametrize(
    "again",
    [
        b"c__builtin__\nset\nh\x00\x85R",
        b"ccollections\nOrderedDict\nh\x01\x85R",
        b"c_codecs\nencode\nh\x02U\x06latin1\x86R",
        b"cnumpy._core.multiarray\nscalar\nh\x03h\x02\x86R",
    ],
)
def test_copying_again_and_again_is_refused(again: bytes) -> None:
    """Twenty bytes name 40 KB a thousand times over; with more of both, memory runs out."""
    numbers = pickle.dumps(list(range(10_000)), 2)[2:-1].replace(b"q\x00", b"")
    pairs = b"](" + b"K\x00K\x01\x86" * 10_000 + b"e"
    text = b"X" + (40_000).to_bytes(4, "little") + b"a" * 40_000
    kind = (
        b"cnumpy\ndtype\nU\x06U10000\x85R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    start = b"\x80\x02" + b"".join(
        part + b"q" + bytes([place]) + b"0"
        for place, part in enumerate((numbers, pairs, text, kind))
    )
    assert len(unpickle(start + b"](" + again + b"e.", "it")) == 1
    with pytest.raises(DataFormatError, match="many copies"), peak_below(20_000_000):
        unpickle(start + b"](" + again * 1000 + b"e.", "it")


def test_key_of_nested_tuples_does_not_overflow_the_stack() -> None:
    nested = b")" + b"\x85" * 100_000
    for written in (b"}" + nested + b"Ns.", b"\x8f(" + nested + b"\x90.", b"(" + nested + b"\x91."):
        with pytest.raises(DataFormatError, match="tuple"):
            unpickle(b"\x80\x04" + written, "it")


def test_too_many_operations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aid_robot.data.pickles.MAX_OPERATIONS", 1000)
    assert len(unpickle(pickle.dumps(list(range(400))), "it")) == 400
    with pytest.raises(DataFormatError, match="more than 1000 operations"):
        unpickle(pickle.dumps(list(range(2000))), "it")


EXAMPLE = pickle.dumps(
    {
        "full_state": np.arange(14.0).reshape(2, 7),
        "time_stamp": [1.5, 2.5],
        "policy": "VRTeleopPolicy",
        "seen": {1, 2},
        "rows": [np.arange(3), np.float32(1), b"x" * 300],
    },
    4,
)


@pytest.mark.parametrize("length", range(0, len(EXAMPLE), 7))
def test_cut_off_pickle_is_said_to_be(length: int, tmp_path: Path) -> None:
    (tmp_path / "cut.pkl").write_bytes(EXAMPLE[:length])
    with pytest.raises(TruncatedFileError, match=r"cut\.pkl"):
        read_pickle(tmp_path / "cut.pkl")


def only_data(value: Any) -> bool:
    """Whether a value is of the kinds that may come out, as far down as it goes."""
    seen: set[int] = set()
    left = [value]
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            left += value
        elif isinstance(value, np.ndarray):
            left += list(value.flat) if value.dtype.hasobject else []
        elif callable(value):
            return False
    return True


@given(written=st.binary(max_size=60))
@example(b"I" + b"9" * 5000 + b"\n.")
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_data_or_refused(written: bytes) -> None:
    with contextlib.suppress(DataFormatError):
        assert only_data(unpickle(written, "it"))


@given(
    place=st.integers(0, len(EXAMPLE) - 1),
    removed=st.integers(0, 8),
    inserted=st.binary(max_size=8)
    | st.sampled_from([operation.code.encode("latin-1") for operation in pickletools.opcodes]),
)
@settings(deadline=None, max_examples=500)
def test_any_change_of_a_pickle_is_data_or_refused(
    place: int, removed: int, inserted: bytes
) -> None:
    changed = EXAMPLE[:place] + inserted + EXAMPLE[place + removed :]
    with contextlib.suppress(DataFormatError):
        assert only_data(unpickle(changed, "it"))
