"""Open pickles that hold data, without running what else a pickle can hold.

A pickle is a program, which `pickle.load` runs. Here `pickletools` takes it apart, and only what
builds data is carried out: numbers, text, bytes, lists, tuples, dicts, sets, and numpy's arrays,
dtypes and scalars. Whatever else it names (`os.system`, `getattr`, a class) is refused before it is
looked up. Nor does numpy's own unpickling run, which believes what a pickle says of types: arrays
are views of the file's bytes, whose number must fit.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from aid_robot.errors import DataFormatError, TruncatedFileError

Buffer: TypeAlias = bytes | bytearray | memoryview

# Ten times what a large file of robot data has: a byte of pickle can build 60 bytes of objects.
MAX_OPERATIONS = 2**25

LONG = 256  # bytes; shorter ones are copied
_MAX_EMPTY = 4096
_SIZED = (str, bytes, bytearray, memoryview, list, tuple)
_TYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][0-9]{1,6}|O8?")


def read_pickle(path: Path) -> Any:
    """Open a pickle file that holds data; its arrays and long bytes are read when they are used."""
    return unpickle(map_file(path), str(path))


def map_file(path: Path) -> memoryview:
    """Map a file into memory, read-only."""
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise DataFormatError(
            f"{path} can't be opened ({error.strerror}); expected a file: check the path"
        ) from error
    except ValueError as error:
        raise TruncatedFileError(f"{path} is empty; copy it again from its source") from error


def unpickle(data: Buffer, name: str) -> Any:
    """Build the data that a pickle holds; `name` is what errors call it.

    Arrays are read-only views of `data`, and so are long bytes (memoryview). An OrderedDict comes
    as a dict, a bytearray as bytes.
    """
    source = _Source(data)
    try:
        return _Machine(source).run()
    except _NotDataError as error:
        raise DataFormatError(
            f"{name} {error}; expected a pickle of plain data: numbers, texts, lists, dicts, numpy "
            "arrays. Nothing in it was run; if you trust where it is from, save its data anew"
        ) from None
    # What a damaged pickle raises depends on the operation that the damage makes of it.
    except Exception as error:
        kind = TruncatedFileError if source.ended else DataFormatError
        raise kind(
            f"{name} is no whole pickle of plain data ({type(error).__name__} at byte "
            f"{source.tell()} of {len(source)}: {str(error)[:200]}): copy it again from its source"
        ) from error


class _NotDataError(Exception):
    """A pickle asks for something that is not data."""


class _Source:
    """What `pickletools` reads: bytes in memory, of which long parts are handed out as views."""

    def __init__(self, data: Buffer) -> None:
        self._data, self._place = memoryview(data).toreadonly(), 0
        # Whether more was asked for than there is.
        self.ended = False

    def __len__(self) -> int:
        return len(self._data)

    def tell(self) -> int:
        return self._place

    def read(self, count: int) -> bytes | memoryview:
        taken = self._data[self._place : self._place + count]
        self._place += len(taken)
        self.ended |= len(taken) < count
        return taken if len(taken) >= LONG else bytes(taken)

    def readline(self) -> bytes:
        size = 64
        while True:
            part = bytes(self._data[self._place : self._place + size])
            end = part.find(b"\n") + 1
            if end or len(part) < size:
                break
            size *= 2
        self.ended |= not end
        line = part[:end] if end else part
        self._place += len(line)
        return line


class _Pending:
    """An array or dtype that is built in a second step."""

    def __init__(self, build: Callable[[Any], Any]) -> None:
        self.build = build
        self.value: Any = self


@dataclass(frozen=True)
class _Global:
    """Something that a pickle may call."""

    call: Callable[..., Any]


class _Machine:
    """Carries out a pickle's operations on a stack of values, and marks on it, and a memo."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def run(self) -> Any:
        operations = pickletools.genops(cast(IO[bytes], self._source))
        for number, (operation, argument, _) in enumerate(operations):
            if number == MAX_OPERATIONS:
                raise _NotDataError(f"has more than {MAX_OPERATIONS} operations")
            if operation.name in _VALUES:
                self._stack.append(argument)
            elif operation.name in _OPERATIONS:
                _OPERATIONS[operation.name](self, argument)
            elif operation.name not in _IGNORED:
                raise _NotDataError(f"has the operation {operation.name}, which data doesn't need")
        value = self._stack.pop()
        if isinstance(value, (_Pending, _Global)):
            raise _NotDataError("holds no data")
        return value

    def push(self, value: object) -> None:
        self._stack.append(value)

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def take(self) -> list[Any]:
        """Pop what was pushed since the last mark."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def take_last(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError("too few values")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self.drop()

    def drop(self) -> None:
        self._stack = self._below.pop()

    def append(self, items: list[Any]) -> None:
        _expect(self._stack[-1], list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        _expect(self._stack[-1], dict).update(_pairs(items))

    def add(self, items: list[Any]) -> None:
        _expect(self._stack[-1], set).update(_keys(items))

    def put(self, place: int | None = None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def get(self, place: int) -> None:
        value = self._memo[place]
        self._stack.append(value.value if isinstance(value, _Pending) else value)

    def find(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _NotDataError("asks for something whose name is no text")
        if (module, name) not in _GLOBALS:
            raise _NotDataError(f"asks for {module[:80]}.{name[:80]}, which is code and not data")
        self._stack.append(_GLOBALS[module, name])

    def call(self) -> None:
        function, arguments = self.take_last(2)
        self._count(_expect(arguments, tuple))
        self._stack.append(_expect(function, _Global).call(*arguments))

    def build(self) -> None:
        pending, state = self.take_last(2)
        self._count(_expect(state, tuple))
        pending.value = _expect(pending, _Pending).build(state)
        self._stack.append(pending.value)

    def _count(self, arguments: tuple[Any, ...]) -> None:
        """Count what may be copied: few bytes suffice to name a long list again and again."""
        self._copied += len(arguments)
        if self._copied <= 2 * len(self._source):
            self._copied += sum(len(value) for value in arguments if isinstance(value, _SIZED))
        if self._copied > 2 * len(self._source):
            raise _NotDataError("makes many copies of what it holds")


def _expect(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__.strip("_").lower() for kind in kinds)
        raise _NotDataError(f"has a {type(value).__name__} where a {names} belongs")
    return value


def _keys(items: list[Any]) -> list[Any]:
    """Check what will be hashed: a hash of deeply nested tuples overflows the stack."""
    for item in items:
        _expect(item, str, int, float, bytes, type(None))
    return items


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(_keys(items[::2]), items[1::2], strict=True))


def _to_bytes(value: Any = b"", encoding: str = "latin1") -> Buffer:
    """Do what old protocols call for bytes: `_codecs.encode`, `bytearray`."""
    if isinstance(value, str) and encoding in ("latin1", "latin-1"):
        return value.encode("latin1")
    return _expect(value, bytes, bytearray, memoryview)  # type: ignore[no-any-return]


def _to_set(items: Any = ()) -> set[Any]:
    return set(_keys(list(_expect(items, list, tuple))))


def _to_frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(_to_set(items))


def _to_dict(pairs: Any = ()) -> dict[Any, Any]:
    flat = [item for pair in _expect(pairs, list, tuple) for item in _expect(pair, list, tuple)]
    return _pairs(flat)


def _new_dtype(name: Any, *_: Any) -> _Pending:
    if not _TYPE.fullmatch(_expect(name, str)):
        raise _NotDataError(f"has an array of the type '{name[:80]}'")
    return _Pending(lambda state: _dtype(name, state))


def _dtype(name: str, state: Any) -> npt.DTypeLike:
    # Version, byte order, base, names, fields, ...: all but the order is set by structured types,
    # and these can be written so that numpy takes numbers for the addresses of objects.
    _, order, *structure = _expect(state, tuple)[:5]
    if structure != [None, None, None] or order not in ("<", ">", "|", "="):
        raise _NotDataError("has an array of a structured type")
    return np.dtype(name).newbyteorder(order)


def _array(state: Any) -> npt.NDArray[Any]:
    _, shape, dtype, columns_first, content = _expect(state, tuple)
    return _view(content, dtype, shape, "F" if columns_first else "C")


def _view(content: Any, dtype: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
    """Make an array of bytes, or of a list of objects, whose length must fit."""
    _expect(dtype, np.dtype)
    counts = [_expect(count, int) for count in _expect(shape, tuple)]
    size = math.prod(counts)
    content = _expect(content, list) if dtype.hasobject else _to_bytes(content)
    fits = len(content) == (size if dtype.hasobject else size * dtype.itemsize)
    # What has no bytes could be of any shape.
    longest = max(len(content), _MAX_EMPTY)
    if not fits or size > longest or not all(0 <= count <= longest for count in counts):
        raise _NotDataError(
            f"has an array of {dtype} with shape {str(shape)[:80]} made of {len(content)} bytes or "
            "items"
        )
    if not len(content):
        array = np.zeros(size, dtype)
    elif dtype.hasobject:
        array = np.empty(size, dtype)
        # One by one, since numpy takes a list of lists for a table.
        for place, value in enumerate(content):
            array[place] = value
    else:
        array = np.frombuffer(content, dtype)
    return array.reshape(counts, order=order)


def _scalar(dtype: Any, content: Any) -> Any:
    array = _view(content, dtype, (1,), "C")
    return array[0]


_GLOBALS: Mapping[tuple[str, str], _Global] = {
    # numpy 1 and numpy 2 name them differently.
    **{
        (f"numpy.{core}.{module}", name): _Global(call)
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", lambda *_: _Pending(_array)),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _view),
        )
    },
    ("numpy", "ndarray"): _Global(lambda *_: _Pending(_array)),
    ("numpy", "dtype"): _Global(_new_dtype),
    ("_codecs", "encode"): _Global(_to_bytes),
    ("collections", "OrderedDict"): _Global(_to_dict),
    **{
        (module, name): _Global(call)
        for module in ("builtins", "__builtin__")
        for name, call in (
            ("set", _to_set),
            ("frozenset", _to_frozenset),
            ("bytes", _to_bytes),
            ("bytearray", _to_bytes),
        )
    },
}

_IGNORED = {"PROTO", "FRAME", "STOP"}
# Operations whose argument is the value.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "MARK": lambda machine, _: machine.mark(),
    "LIST": lambda machine, _: machine.push(machine.take()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.take())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.take_last(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.take_last(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.take_last(3))),
    "DICT": lambda machine, _: machine.push(_pairs(machine.take())),
    "FROZENSET": lambda machine, _: machine.push(frozenset(_keys(machine.take()))),
    "APPEND": lambda machine, _: machine.append(machine.take_last(1)),
    "APPENDS": lambda machine, _: machine.append(machine.take()),
    "SETITEM": lambda machine, _: machine.set_items(machine.take_last(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.take()),
    "ADDITEMS": lambda machine, _: machine.add(machine.take()),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.drop(),
    "MEMOIZE": lambda machine, _: machine.put(),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": lambda machine, names: machine.find(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.find(*machine.take_last(2)),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
